package authserver

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	grantTypeExchange  = "urn:ietf:params:oauth:grant-type:token-exchange"
	grantTypeJWTBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	tokenTypes         = "urn:ietf:params:oauth:token-type:"
)

// Bearer is somebody whose token the server takes in an exchange.
type Bearer struct {
	Subject string
	// Scopes bound what the token can be exchanged for; nil is no bound.
	Scopes []string
}

// Trust has the server take token for who's, as a subject or actor token.
func (s *Server) Trust(token string, who Bearer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subjects[token] = who
}

// exchange is RFC 8693 2.
func (s *Server) exchange(client *Client, form url.Values) reply {
	subject, known := s.subjects[form.Get("subject_token")]
	actor, actorKnown := s.subjects[form.Get("actor_token")]
	requested := form.Get("requested_token_type")
	switch {
	case !known, !strings.HasPrefix(form.Get("subject_token_type"), tokenTypes):
		return oauthError(http.StatusBadRequest, "invalid_request")
	case form.Has("actor_token") != form.Has("actor_token_type"), form.Has("actor_token") && !actorKnown:
		return oauthError(http.StatusBadRequest, "invalid_request")
	case requested == "":
		requested = tokenTypes + "access_token"
	case !slices.Contains([]string{"access_token", "jwt"}, strings.TrimPrefix(requested, tokenTypes)):
		return oauthError(http.StatusBadRequest, "invalid_request")
	}
	answer := s.grantFor(client, subject, actor, form)
	if answer.status == http.StatusOK {
		answer.body.(map[string]any)["issued_token_type"] = requested
	}
	return answer
}

// redeem is RFC 7523 2.1, and Entra's on-behalf-of.
func (s *Server) redeem(client *Client, form url.Values) reply {
	subject, known := s.subjects[form.Get("assertion")]
	if !known {
		return oauthError(http.StatusBadRequest, "invalid_grant")
	}
	return s.grantFor(client, subject, Bearer{}, form)
}

func (s *Server) grantFor(client *Client, subject, actor Bearer, form url.Values) reply {
	s.serial++
	t := Token{Client: client.ID, Subject: subject.Subject, Actor: actor.Subject, Scopes: client.Scopes, Family: s.serial}
	if subject.Scopes != nil {
		t.Scopes = slices.DeleteFunc(slices.Clone(t.Scopes), func(scope string) bool { return !slices.Contains(subject.Scopes, scope) })
	}
	return s.grant(client, t, form)
}

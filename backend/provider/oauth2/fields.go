package oauth2

import (
	"encoding/json"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// The fields, by the names of the contract.
const (
	fieldIssuer            = "issuer"
	fieldTokenURL          = "token_url"
	fieldRevocationURL     = "revocation_url"
	fieldIntrospectionURL  = "introspection_url"
	fieldJWKSURL           = "jwks_url"
	fieldClientID          = "client_id"
	fieldClientSecret      = "client_secret"
	fieldClientSecretNext  = "client_secret_next"
	fieldAuthMethod        = "auth_method"
	fieldGrant             = "grant"
	fieldRefreshToken      = "refresh_token"
	fieldExchange          = "exchange"
	fieldAudienceParameter = "audience_parameter"
	fieldVerify            = "verify"
	fieldConfirmRevocation = "confirm_revocation"
	fieldRevocation        = "revocation"
	fieldAssumedLifetime   = "assumed_lifetime"
	fieldAssumedTokenType  = "assumed_token_type"
	fieldExtraMembers      = "extra_members"
	fieldCheckScopes       = "check_scopes"
	fieldCheckAudiences    = "check_audiences"
)

// The values of the enumerated fields.
const (
	authBasic         = "client_secret_basic"
	authPost          = "client_secret_post"
	authPrivateKeyJWT = "private_key_jwt"
	authTLS           = "tls_client_auth"
	authSelfSignedTLS = "self_signed_tls_client_auth"
	authNone          = "none"

	grantClientCredentials = "client_credentials"
	grantRefreshToken      = "refresh_token"

	audienceNone     = "none"
	audienceAudience = "audience"
	audienceResource = "resource"

	verifyResponse   = "response"
	verifyIntrospect = "introspect"
	verifyJWT        = "jwt"

	exchangeToken      = "token-exchange"
	exchangeJWTBearer  = "jwt-bearer"
	exchangeOnBehalfOf = "on-behalf-of"

	revocationToken  = "token"
	revocationExpiry = "expiry"
	revocationLever  = "lever"
)

// settings are the fields that are no secrets, with their defaults filled in.
type settings struct {
	Issuer            string   `json:"issuer"`
	TokenURL          string   `json:"token_url"`
	RevocationURL     string   `json:"revocation_url"`
	IntrospectionURL  string   `json:"introspection_url"`
	JWKSURL           string   `json:"jwks_url"`
	ClientID          string   `json:"client_id"`
	AuthMethod        string   `json:"auth_method"`
	Grant             string   `json:"grant"`
	Exchange          string   `json:"exchange"` // "" means token-exchange, not written by the operator
	AudienceParameter string   `json:"audience_parameter"`
	Verify            string   `json:"verify"`
	ConfirmRevocation bool     `json:"confirm_revocation"`
	Revocation        string   `json:"revocation"` // "" means the contract's default
	AssumedLifetime   int64    `json:"assumed_lifetime"`
	AssumedTokenType  string   `json:"assumed_token_type"`
	ExtraMembers      []string `json:"extra_members"`
	CheckScopes       []string `json:"check_scopes"`
	CheckAudiences    []string `json:"check_audiences"`
	clientSettings
}

func parseSettings(raw json.RawMessage) (settings, error) {
	var s settings
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &s); err != nil {
			return settings{}, fault.New(fault.InvalidRequest, "the oauth2 fields are malformed").Because(err)
		}
	}
	setDefault(&s.AuthMethod, authBasic)
	setDefault(&s.Grant, grantClientCredentials)
	setDefault(&s.AudienceParameter, audienceNone)
	setDefault(&s.Verify, verifyResponse)
	return s, nil
}

func setDefault(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

func fields() map[string]*framework.FieldSchema {
	all := map[string]*framework.FieldSchema{
		fieldIssuer:           text("Issuer URL of the authorization server. Its endpoints are discovered by RFC 8414 or OpenID Connect Discovery when the provider is written, and pinned. Write either this or token_url."),
		fieldTokenURL:         text("Token endpoint (RFC 6749 3.2). Required without issuer; with issuer it takes precedence over the discovered one."),
		fieldRevocationURL:    text("Revocation endpoint (RFC 7009), by which child tokens are killed. It takes precedence over the discovered one."),
		fieldIntrospectionURL: text("Introspection endpoint (RFC 7662). Needed for verify=introspect and confirm_revocation. It takes precedence over the discovered one."),
		fieldJWKSURL:          text("Where the authorization server publishes the keys of its JWT access tokens (RFC 7517). Needed for verify=jwt. It takes precedence over the discovered one."),
		fieldClientID:         text("The client identifier that the authorization server knows the broker by. Required."),
		fieldClientSecret:     secretText("The client secret, which authenticates the broker at the authorization server."),
		fieldClientSecretNext: secretText("The client secret that will follow. It is tried when the server refuses client_secret, and the rotate path makes it the client_secret, so that a secret can be changed at the server without downtime."),
		fieldAuthMethod: choice("How the broker authenticates at the authorization server: by client_secret (client_secret_basic or client_secret_post), by an assertion signed with private_key (private_key_jwt, RFC 7523), by a client certificate (tls_client_auth or self_signed_tls_client_auth, RFC 8705), or, with grant=refresh_token, not at all (none).",
			authBasic, authPost, authPrivateKeyJWT, authTLS, authSelfSignedTLS, authNone),
		fieldGrant: choice("The grant that child tokens come from: client_credentials (RFC 6749 4.4) or refresh_token (RFC 6749 6), which needs refresh_token.",
			grantClientCredentials, grantRefreshToken),
		fieldRefreshToken: secretText("The parent refresh token for grant=refresh_token. If the server rotates it, the broker stores each new one before it answers."),
		fieldExchange: choice("How a role with mode=exchange exchanges a subject token: by token-exchange (RFC 8693, the only form that can name an actor), by jwt-bearer (RFC 7523), or by on-behalf-of (Entra's form of it). Where it is written, a client without a credential (auth_method=none) may exchange, too.",
			exchangeToken, exchangeJWTBearer, exchangeOnBehalfOf),
		fieldAudienceParameter: choice("How the server is asked for an audience: not at all (none), by the repeatable parameter audience, or by resource (RFC 8707), for which audiences must be absolute URIs.",
			audienceNone, audienceAudience, audienceResource),
		fieldVerify: choice("How the broker learns what was really granted: from the token response (response), by introspecting each child (introspect, RFC 7662), or from the signed claims of a JWT (jwt, RFC 9068).",
			verifyResponse, verifyIntrospect, verifyJWT),
		fieldConfirmRevocation: {
			Type:         framework.TypeBool,
			Description:  "Whether a revoked child is introspected afterwards to see that it is dead. By default the revocation endpoint's 200 is believed. Needs an introspection endpoint.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Confirm revocation"},
		},
		fieldRevocation: oneOf("The revocation class: token if a child can be killed at the revocation endpoint and nothing else dies with it, lever if it can but the server gives the same token to several requests, so that it is killed with the last lease on it, or with all of them by a revoke path, expiry if it lives until it expires. Default: token where the server has a revocation endpoint, else expiry; for grant=refresh_token always expiry, because many servers kill the refresh token together with its access token.",
			revocationToken, revocationLever, revocationExpiry),
		fieldAssumedLifetime: {
			Type:         framework.TypeDurationSecond,
			Description:  "How long child tokens live at a server that does not say so by expires_in. It is the operator's word: nothing is ever guessed.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Assumed lifetime"},
		},
		fieldAssumedTokenType: text("The type of child tokens at a server that does not say so by token_type, such as Bearer; or the server's own word for it, such as bot, which is then taken, too, and handed out. Without it both are refused. Not with dpop=true."),
		fieldExtraMembers: {
			Type:         framework.TypeCommaStringSlice,
			Description:  "Members of the server's answer that go to the caller beside the token, such as Salesforce's instance_url. A token or secret among them is left out, and so is what is longer than 4096 bytes.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Extra members"},
		},
		fieldCheckScopes: {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The scopes that check and rotate ask for, at a server that grants nothing without one. Default: none, which is what the parent has by default. Roles are not bound by them.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Check scopes"},
		},
		fieldCheckAudiences: {
			Type:         framework.TypeCommaStringSlice,
			Description:  "The audiences that check and rotate ask for, in the form of audience_parameter, at a server that grants nothing without one.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "Check audiences"},
		},
	}
	maps.Copy(all, clientFields())
	return all
}

func text(description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: description}
}

func secretText(description string) *framework.FieldSchema {
	f := text(description)
	f.DisplayAttrs = &framework.DisplayAttributes{Sensitive: true}
	return f
}

// choice is a field whose default is the first of the values.
func choice(description string, values ...string) *framework.FieldSchema {
	f := oneOf(description, values...)
	f.Default = values[0]
	return f
}

func oneOf(description string, values ...string) *framework.FieldSchema {
	f := text(description)
	for _, v := range values {
		f.AllowedValues = append(f.AllowedValues, v)
	}
	return f
}

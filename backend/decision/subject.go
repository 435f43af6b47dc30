package decision

import (
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// SubjectTerms are a role's terms on the token on whose behalf it grants.
type SubjectTerms struct {
	Claims    *subject.ClaimBounds
	StepUp    subject.StepUp
	SingleUse bool
	// Exchanged is true if the child is the subject's, and not only granted because
	// of it.
	Exchanged bool
}

// checkSubject judges the subject token, whose signature and registered claims
// were verified before.
func (p *Policy) checkSubject(s Situation) []*fault.Error {
	token := s.Subject.Token()
	switch {
	case s.Subject.Refusal() != nil:
		return []*fault.Error{s.Subject.Refusal()}
	case p.Subject == nil && token != nil:
		return []*fault.Error{fault.New(fault.InvalidRequest, "the role takes no subject_token: leave it out")}
	case p.Subject == nil:
		return nil
	case token != nil && token.KeyBound && !p.Forward:
		return []*fault.Error{fault.New(fault.InvalidGrant, "the subject token is bound to a key (cnf), and nothing proves to the broker that the caller holds it: bring a token that is not bound, or let a role hand it on as it is (mode=forward)")}
	case token == nil:
		return []*fault.Error{fault.New(fault.InvalidRequest, "subject_token is missing: the role grants on a subject's behalf only (write it, a read has no body)")}
	}
	var reasons []*fault.Error
	if missed := p.Subject.Claims.Check(token.Claims); len(missed) > 0 {
		reasons = append(reasons, p.claimsFault(token.Claims, missed))
	}
	if weak := p.Subject.StepUp.Check(token, s.Now); weak != nil {
		reasons = append(reasons, weak)
	}
	if p.Subject.SingleUse {
		if _, _, err := token.ReplayKey(); err != nil {
			reasons = append(reasons, asFault(err))
		}
	}
	return reasons
}

// checkRecordedSubject is checkSubject at a renewal, over the claims of the issue;
// nil claims are a grant that was made without a subject token. How the subject
// had logged in is judged again, how long ago is not.
func (p *Policy) checkRecordedSubject(claims map[string]any, now time.Time) []*fault.Error {
	switch {
	case p.Subject == nil:
		return nil
	case claims == nil:
		return []*fault.Error{fault.New(fault.AccessDenied, "the role grants on a subject's behalf only now, and this grant has no subject: read creds again")}
	}
	var reasons []*fault.Error
	if missed := p.Subject.Claims.Check(claims); len(missed) > 0 {
		reasons = append(reasons, p.claimsFault(claims, missed))
	}
	login := subject.StepUp{RequiredACR: p.Subject.StepUp.RequiredACR, RequiredAMR: p.Subject.StepUp.RequiredAMR}
	acr, _ := claims["acr"].(string)
	if weak := login.Check(&subject.Token{ACR: acr, AMR: texts(claims["amr"])}, now); weak != nil {
		reasons = append(reasons, weak)
	}
	return reasons
}

// texts are the strings of a claim that is a list of them, or a single one.
func texts(claim any) []string {
	switch claim := claim.(type) {
	case string:
		return []string{claim}
	case []any:
		var list []string
		for _, v := range claim {
			if s, ok := v.(string); ok {
				list = append(list, s)
			}
		}
		return list
	default:
		return nil
	}
}

func (p *Policy) claimsFault(claims map[string]any, missed []string) *fault.Error {
	if left := p.Subject.Claims.LeftOut(claims, missed); len(left) > 0 {
		return fault.New(fault.AccessDenied, "the subject token does not meet the role's bound_subject_claims: %s; "+
			"the issuer left %s out of the token, most often because there are too many of them: let it put in fewer, such as those that are assigned to the application, or bind another claim, such as roles",
			strings.Join(missed, ", "), strings.Join(left, ", "))
	}
	if just := p.Subject.Claims.JustMissed(claims, missed); len(just) > 0 {
		return fault.New(fault.AccessDenied, "the subject token does not meet the role's bound_subject_claims: %s (in the role's patterns * crosses neither / nor :, and ** does: its author may have meant that for %s)",
			strings.Join(missed, ", "), strings.Join(just, ", "))
	}
	return fault.New(fault.AccessDenied, "the subject token does not meet the role's bound_subject_claims: %s", strings.Join(missed, ", "))
}

// asFault is for errors that are documented to be faults.
func asFault(err error) *fault.Error {
	if f, ok := err.(*fault.Error); ok { //nolint:errorlint // never wrapped, by contract
		return f
	}
	return fault.New(fault.TemporarilyUnavailable, "an unexpected failure: try again").Because(err)
}

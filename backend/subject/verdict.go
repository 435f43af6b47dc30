package subject

import "github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"

// Verdict is what became of a token that was shown: it is verified, or it is refused.
// There is never a token beside a refusal, so nobody can go on with one that was
// refused. The zero Verdict is that none was shown.
type Verdict struct {
	token   *Token
	refusal *fault.Error
}

// Verified is the verdict on a token that may stand for its subject.
func Verified(t *Token) Verdict { return Verdict{token: t} }

// Refused is the verdict on a token that may not.
func Refused(why *fault.Error) Verdict { return Verdict{refusal: why} }

// Token is the verified token, nil if none was shown or it is refused.
func (v Verdict) Token() *Token { return v.token }

// Refusal is why the token is refused, or nil.
func (v Verdict) Refusal() *fault.Error { return v.refusal }

// Unless is the verdict after a further look: the token is refused if there is a
// reason why. A refusal stands, whatever comes after it.
func (v Verdict) Unless(why *fault.Error) Verdict {
	if v.token == nil || why == nil {
		return v
	}
	return Refused(why)
}

package keyring

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

const (
	storedVersion = 1
	// maxStored is far above a full ring of RSA keys, in bytes.
	maxStored = 128 << 10
)

// storedForm is the form of a ring. The member version is older than it, and stays.
var storedForm = form.Kind{Name: "set of signing keys"}

// stored is a ring as it is written down, private keys included.
type stored struct {
	Version int         `json:"version"`
	Stopped time.Time   `json:"stopped,omitzero"`
	Keys    []storedKey `json:"keys"`
	// Withdrawn are ids; earlier builds neither wrote nor read them.
	Withdrawn []string `json:"withdrawn,omitempty"`
}

type storedKey struct {
	Purpose     Purpose       `json:"purpose"`
	Algorithm   string        `json:"algorithm"`
	Private     []byte        `json:"private"` // PKCS #8
	ActiveFrom  time.Time     `json:"active_from"`
	LongestLife time.Duration `json:"longest_life"` // ns
}

// Encode is the ring with its private keys, for a storage that keeps secrets.
func (r *Ring) Encode() ([]byte, error) {
	s := stored{Version: storedVersion, Stopped: r.stopped, Keys: []storedKey{}, Withdrawn: r.withdrawn}
	for _, p := range Purposes() {
		for _, k := range r.keys[p] {
			private, err := x509.MarshalPKCS8PrivateKey(k.private)
			if err != nil {
				return nil, err
			}
			s.Keys = append(s.Keys, storedKey{
				Purpose: p, Algorithm: k.alg.String(), Private: private, ActiveFrom: k.activeFrom, LongestLife: k.longestLife,
			})
		}
	}
	return storedForm.Encode(s)
}

// Decode is the ring that was encoded. Its errors hold nothing of the keys.
func Decode(raw []byte) (*Ring, error) {
	if len(raw) > maxStored {
		return nil, errors.New("the stored keys are too large")
	}
	if err := storedForm.Check(raw); err != nil {
		return nil, err
	}
	var s stored
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, errors.New("the stored keys are not readable")
	}
	if s.Version != storedVersion {
		return nil, fmt.Errorf("the stored keys have version %d, and this version of the plugin reads %d", s.Version, storedVersion)
	}
	keys, known := map[Purpose][]*key{}, map[string]bool{}
	for _, one := range s.Keys {
		k, err := one.open()
		if err != nil {
			return nil, err
		}
		if known[k.id] {
			return nil, errors.New("a stored key is there twice")
		}
		known[k.id] = true
		keys[k.purpose] = append(keys[k.purpose], k)
		if len(keys[k.purpose]) > MaxKeys {
			return nil, fmt.Errorf("more than %d stored keys have one purpose", MaxKeys)
		}
	}
	for _, list := range keys {
		slices.SortStableFunc(list, func(a, b *key) int { return a.activeFrom.Compare(b.activeFrom) })
	}
	return build(keys, s.Stopped, s.Withdrawn)
}

func (s storedKey) open() (*key, error) {
	alg := jwa.SignatureAlgorithm(s.Algorithm)
	if s.Purpose.Type() == "" || s.LongestLife <= 0 || s.LongestLife > MaxLife {
		return nil, errors.New("a stored key has no purpose or an impossible life")
	}
	private, err := x509.ParsePKCS8PrivateKey(s.Private)
	if err != nil || !fits(private, alg) {
		return nil, errors.New("a stored key is no key of its algorithm")
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return nil, errors.New("a stored key cannot sign")
	}
	return newKey(key{purpose: s.Purpose, alg: alg, private: signer, activeFrom: s.ActiveFrom, longestLife: s.LongestLife})
}

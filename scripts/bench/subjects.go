package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/load"
)

// A full ledger's grants are on behalf of subjects, perSubject each, which so many holders
// have got for them.
const (
	perSubject  = 10
	subjectName = "ci"
)

// subjectOf is on whose behalf the n-th grant of a full ledger is.
func subjectOf(n int) string { return fmt.Sprintf("user|%d@example.com", n/perSubject) }

// subjectsRole is for what is about subjects: who is asked, and with what.
func subjectsRole(t harness.TB, w *world, at *site) (engine, error) {
	nobody := harness.Fields{"issuer": subjectIssuer, "subject": "nobody"}
	return engine{plugin: at.plugin, creds: at.path + "/revoke/subject"}, w.write(t, at, "revoke/subject", nobody)
}

// listSubject lists the grants of one subject after the other.
func listSubject(t harness.TB, w *world, e engine, clients int, much amount) job {
	return w.bySubject(t, e, clients, much.leases, func(ctx context.Context, client int, at, subject string) error {
		query := url.Values{"issuer": {subjectIssuer}, "subject": {subject}}
		answer, err := w.connections[client].Do(ctx, w.vault.Token, http.MethodGet, at+"/grants/subject?"+query.Encode(), nil)
		var listed struct{ Data struct{ Keys []string } }
		if err == nil {
			err = json.Unmarshal(answer, &listed)
		}
		if err == nil && len(listed.Data.Keys) != perSubject {
			err = fmt.Errorf("%s has %d grants, want %d", subject, len(listed.Data.Keys), perSubject)
		}
		return err
	})
}

// killSubject kills one subject after the other, and waits until each is dead.
func killSubject(t harness.TB, w *world, e engine, clients int, much amount) job {
	return w.bySubject(t, e, clients, max(clients, much.leases/perSubject), func(ctx context.Context, client int, at, subject string) error {
		body, err := json.Marshal(map[string]string{"issuer": subjectIssuer, "subject": subject})
		if err != nil {
			return err
		}
		answer, err := w.connections[client].Do(ctx, w.vault.Token, http.MethodPut, at+"/revoke/subject", body)
		var killed struct{ Data struct{ Revoked int } }
		if err == nil {
			err = json.Unmarshal(answer, &killed)
		}
		if err == nil && killed.Data.Revoked != perSubject {
			err = fmt.Errorf("of %s %d grants were killed, want %d", subject, killed.Data.Revoked, perSubject)
		}
		return err
	})
}

// bySubject does something for so many subjects that have not had their turn at the mount.
// The floor, which knows none, leases as many secrets.
func (w *world) bySubject(t harness.TB, e engine, clients, calls int, do func(ctx context.Context, client int, at, subject string) error) job {
	options := load.Options{Clients: clients, Calls: calls}
	if e.plugin == floorPlugin {
		j := issue(t, w, e, clients, amount{})
		return job{options, j.call}
	}
	first, at := w.subjects[e.creds], e.creds[:len(e.creds)-len("/revoke/subject")]
	w.subjects[e.creds] = first + calls
	return job{options, func(ctx context.Context, client, n int) error {
		return do(ctx, client, at, subjectOf((first+n)*perSubject%w.grants))
	}}
}

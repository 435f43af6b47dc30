package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

const killsHelp = `
What was killed on whose word: one record for each kill that an operator (revoke/*, the
deletion of a provider with force, issuer/rotate emergency=true, another config issuer), a
signal, or the end of an entity has caused. The end of a lease leaves none, nor does
oauth/revoke, which is its holder's own word, nor a signal or a sweep that found nothing to
kill: metrics and the log tell of these. A record says
who asked, when that happened to which the kill is the answer, which grants were meant, what
their providers answered and when, and for how long one of the tokens was accepted
somewhere. report is the same to be read, as in

  vault read -field=report broker/kills/<id>

A grant's state: revoked (at that time its provider has confirmed that the token is dead);
pending (not dead yet: it is retried); expiry_only (nothing can kill it, it works until it
expires); expired (it had expired when its turn came); dead (it was dead when the broker
looked, at that time at the latest: by another kill or its lease's end, or by this kill
before a crash); nothing_minted (its mint's answer had been lost, and no token had come of
it); released (it lives on, because others hold what it would die with); bystander (another's
grant, which died with what had to be killed).

Records are written beside the kill, which neither waits for them nor fails with them. Names
begin with the time of the kill, in UTC, so a list is in their order and after=20261128 lists
from that day on. They are kept for config kills_retention; the oldest go sooner if there are
more than 10,000, or if they take more than 64 MiB. A record lists 10,000 grants and counts
the rest.
`

func (b *broker) pathKills() []*framework.Path {
	text := func(what string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeString, Description: what}
	}
	return []*framework.Path{
		{
			Pattern:      "kills/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "kills"},
			HelpSynopsis: "Lists what was killed on whose word, by time.", HelpDescription: strings.TrimSpace(killsHelp),
			Fields: pageFields(nil),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback: b.listKills, Summary: "List the records of kills.",
					Responses:                 listResponses("what", "by", "cause", "ordered_at", "state (under_way, pending or complete)", "grants", "revoked", "pending"),
					ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true,
				},
			},
		},
		{
			Pattern:      "kills/" + anyID("kill_id") + "$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "kill"},
			HelpSynopsis: "Reads the record of one kill.", HelpDescription: strings.TrimSpace(killsHelp),
			Fields: pageFields(map[string]*framework.FieldSchema{"kill_id": text("The record's name, as in the answer of revoke/*.")}),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback: b.readKill, Summary: "Read the record of a kill.",
					Responses:                 map[int][]framework.Response{http.StatusOK: {{Description: "The record.", Fields: killRecordFields()}}},
					ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true,
				},
			},
		},
	}
}

// killRecordFields is the schema of showKill.
func killRecordFields() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"what":   {Type: framework.TypeStringSlice, Description: "What was to die, as in entity/<id>; at most 100 things."},
		"froze":  {Type: framework.TypeBool, Description: "Whether new grants of it were stopped by the same word."},
		"grants": {Type: framework.TypeInt, Description: "How many grants were meant."},
		"deaths": {Type: framework.TypeSlice, Description: "What has become of each, by grant id: grant_id, entity_id, role, provider, revocation (its class), subject, subject_issuer, state, at, attempts, error, expires_at, self_contained. At most limit of them, and 10,000 in all."},
		"listed": {Type: framework.TypeInt, Description: "How many of them, bystanders included, the record lists."},
		"more":   {Type: framework.TypeBool, Description: "Whether others follow: read again with after=<the last grant_id>."},

		"interrupted":               {Type: framework.TypeBool, Description: "True if the plugin ended during the kill, and it went on later: what had died in the seconds before may be missing here, and is in the log (event grant_killed)."},
		"residual_exposure_seconds": {Type: framework.TypeInt, Description: "For how long after the event one of the tokens was accepted somewhere, or may be: until the last provider confirmed, or until the end of what nothing kills or is verified offline. Left out if nobody knows an end."},
	}
	for name, what := range map[string]string{
		"kill_id": "The record's name.", "state": "under_way, pending (each grant was tried, and not all are dead) or complete.",
		"cause": "The kill's cause, as on the grants and in metrics.", "by": "Who or what asked.", "note": "What else was said.",
		"event_at": "When that happened to which the kill is the answer.", "ordered_at": "When the kill became durable.",
		"tried_at": "When each of its grants had been tried once.", "last_confirmed_at": "When the last provider that has done so had confirmed a death.",
		"exposure_ends_at": "Until when one of the tokens was accepted somewhere, or may be. Left out if nobody knows an end.",
		"report":           "All of this as a text.",
	} {
		fields[name] = &framework.FieldSchema{Type: framework.TypeString, Description: what}
	}
	for _, state := range kills.States {
		fields[countName(state)] = &framework.FieldSchema{Type: framework.TypeInt, Description: "How many of the grants are " + string(state) + "."}
	}
	return fields
}

// killStamp is a time in a record, as exact as whoever compares clocks needs it.
func killStamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// countName is what a count is called, as in the answer of revoke/*.
func countName(state kills.State) string {
	if state == kills.Bystander {
		return "bystanders"
	}
	return string(state)
}

func (b *broker) listKills(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	found, err := b.records.List(ctx, after, limit+1)
	if err != nil {
		return nil, err
	}
	page := found[:min(limit, len(found))]
	keys, info := []string{}, map[string]any{}
	for i := range page {
		h := &page[i]
		keys = append(keys, h.ID)
		if h.Ordered.IsZero() {
			continue // it cannot be read
		}
		info[h.ID] = map[string]any{
			"what": strings.Join(h.What, ", "), "by": h.By, "cause": h.Cause, "ordered_at": killStamp(h.Ordered),
			"state": h.State(), "grants": h.Grants(), "revoked": h.Counts[kills.Revoked], "pending": h.Counts[kills.Pending],
		}
	}
	resp := logical.ListResponseWithInfo(keys, info)
	if len(found) > limit {
		tellMore(resp, req, keys[limit-1])
	}
	return resp, nil
}

func (b *broker) readKill(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	id := d.Get("kill_id").(string)
	h, entries, more, err := b.records.Read(ctx, id, after, limit)
	if errors.Is(err, stored.ErrAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Data: showKill(h, entries)}
	resp.Data["more"] = more
	resp.Data["report"] = killReport(h, entries, more)
	if more {
		resp.AddWarning(fmt.Sprintf("more grants follow: vault read %skills/%s after=%s", req.MountPoint, id, entries[len(entries)-1].ID))
	}
	if b.records.Unwritten() > 0 {
		resp.AddWarning("not all that was told of kills is in storage yet: if this stays, look into the log")
	}
	return resp, nil
}

// showKill is a record, and those of its grants that were asked for.
func showKill(h *kills.Head, entries []kills.Entry) map[string]any {
	listed := 0
	for state, n := range h.Counts {
		listed += n - h.Unlisted[state]
	}
	data := map[string]any{
		"kill_id": h.ID, "state": h.State(), "what": h.What, "cause": h.Cause, "froze": h.Froze, "interrupted": h.Interrupted,
		"event_at": killStamp(h.Event), "ordered_at": killStamp(h.Ordered), "grants": h.Grants(), "listed": listed,
	}
	for _, state := range kills.States {
		data[countName(state)] = h.Counts[state]
	}
	for name, value := range map[string]string{"by": h.By, "note": h.Note} {
		if value != "" {
			data[name] = value
		}
	}
	for name, at := range map[string]time.Time{"tried_at": h.Tried, "last_confirmed_at": h.Exposure.Last.At} {
		if !at.IsZero() {
			data[name] = killStamp(at)
		}
	}
	if until := h.Until(); !until.Endless {
		data["residual_exposure_seconds"] = exposureSeconds(h)
		if !until.At.IsZero() {
			data["exposure_ends_at"] = killStamp(until.At)
		}
	}
	deaths := []map[string]any{}
	for i := range entries {
		deaths = append(deaths, showDeath(&entries[i]))
	}
	data["deaths"] = deaths
	return data
}

// exposureSeconds is for how long after the event a token was accepted, rounded up.
func exposureSeconds(h *kills.Head) int64 {
	return int64((exposed(h) + time.Second - 1) / time.Second)
}

func exposed(h *kills.Head) time.Duration {
	return max(0, h.Until().At.Sub(h.Event)).Round(time.Millisecond)
}

func showDeath(e *kills.Entry) map[string]any {
	holder, _ := grant.HolderOf(e.ID)
	data := map[string]any{"grant_id": e.ID, "entity_id": holder, "state": string(e.State), "self_contained": e.SelfContained}
	for name, value := range map[string]string{
		"role": e.Role, "provider": e.Provider, "revocation": string(e.Class), "subject": e.Subject, "subject_issuer": e.SubjectIssuer, "error": e.Error,
	} {
		if value != "" {
			data[name] = value
		}
	}
	if e.Attempts > 0 {
		data["attempts"] = e.Attempts
	}
	for name, at := range map[string]time.Time{"at": e.At, "expires_at": e.Expires} {
		if !at.IsZero() {
			data[name] = killStamp(at)
		}
	}
	return data
}

// killReport is a record for people.
func killReport(h *kills.Head, entries []kills.Entry, more bool) string {
	var text strings.Builder
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&text, "%-16s%s\n", name, value)
		}
	}
	row("Kill", h.ID)
	row("What", strings.Join(h.What, ", "))
	row("Asked by", h.By)
	row("Cause", h.Cause)
	row("Note", h.Note)
	row("Event", killStamp(h.Event))
	row("Ordered", killStamp(h.Ordered))
	if h.Froze {
		row("Frozen", "new grants of it were stopped by the same word")
	}
	row("State", reportState(h))
	row("Grants", reportCounts(h))
	row("Exposure", reportExposure(h))
	if h.Interrupted {
		row("Interrupted", "the plugin ended during the kill, which went on later: what had died in the seconds before may be missing here, and is in the log (event grant_killed)")
	}
	text.WriteString("\n")
	for i := range entries {
		text.WriteString(reportDeath(&entries[i]) + "\n")
	}
	unlisted := 0
	for _, n := range h.Unlisted {
		unlisted += n
	}
	switch {
	case more:
		text.WriteString("… and more, which are listed after these\n")
	case unlisted > 0:
		fmt.Fprintf(&text, "… and %d more, which are counted and not listed\n", unlisted)
	}
	return text.String()
}

func reportState(h *kills.Head) string {
	switch h.State() {
	case kills.UnderWay:
		return "under way: not all of its grants were tried yet"
	case kills.Complete:
		return "complete"
	}
	return "not complete: what is pending is tried again until it is dead or has expired"
}

func reportCounts(h *kills.Head) string {
	var counts []string
	for _, state := range kills.States {
		if n := h.Counts[state]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, countName(state)))
		}
	}
	text := strconv.Itoa(h.Grants())
	if len(counts) > 0 {
		text += ": " + strings.Join(counts, ", ")
	}
	return text
}

func reportExposure(h *kills.Head) string {
	until := h.Until()
	switch {
	case until.Endless:
		return "nobody knows when one of the tokens ends"
	case until.At.IsZero():
		return "none"
	case h.State() == kills.Complete:
		return fmt.Sprintf("%s after the event, until %s", exposed(h), killStamp(until.At))
	}
	return fmt.Sprintf("%s after the event, until %s, if what is pending dies no sooner", exposed(h), killStamp(until.At))
}

func reportDeath(e *kills.Entry) string {
	text := e.ID + "  " + string(e.State)
	if !e.At.IsZero() {
		text += " " + killStamp(e.At)
	}
	if e.Provider != "" {
		text += "  " + e.Provider
	}
	if e.Role != "" {
		text += "  role " + e.Role
	}
	if e.Class != "" {
		text += "  class " + string(e.Class)
	}
	if e.Subject != "" {
		text += "  for " + strconv.Quote(e.Subject)
	}
	switch {
	case e.Attempts > 1 || e.Attempts == 1 && e.State == kills.Pending:
		text += fmt.Sprintf("  %d attempts", e.Attempts)
	case e.Attempts == 1:
		text += "  1 attempt"
	}
	if e.State != kills.Revoked || e.SelfContained {
		if !e.Expires.IsZero() {
			text += "  expires " + killStamp(e.Expires)
		}
	}
	if e.SelfContained {
		text += "  accepted until then by who verifies offline"
	}
	if e.Error != "" {
		text += "  last error: " + e.Error
	}
	return text
}

package harness

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/api"
)

// Audit is a file audit device.
type Audit struct{ File string }

// EnableAudit switches a file audit device on.
func (v *Vault) EnableAudit(t TB) *Audit {
	t.Helper()
	audit := &Audit{File: filepath.Join(v.Dir, "audit.log")}
	err := v.Client(t).Sys().EnableAuditWithOptions("file", &api.EnableAuditOptions{
		Type:    "file",
		Options: map[string]string{"file_path": audit.File},
	})
	if err != nil {
		t.Fatalf("enabling the audit device: %v", err)
	}
	return audit
}

// ShowInAudit lets response keys of this mount stand in the audit log in clear.
func (m *Mount) ShowInAudit(t TB, keys ...string) {
	t.Helper()
	m.Tune(t, Fields{"audit_non_hmac_response_keys": keys})
}

// Text is the whole log, to search it for what must not be there.
func (a *Audit) Text(t TB) string {
	t.Helper()
	content, err := os.ReadFile(a.File)
	if err != nil {
		t.Fatalf("audit log: %v", err)
	}
	return string(content)
}

// Responses are the logged answers to requests for path, oldest first.
func (a *Audit) Responses(t TB, path string) []map[string]any {
	t.Helper()
	var found []map[string]any
	for line := range strings.Lines(a.Text(t)) {
		var entry struct {
			Type     string
			Request  struct{ Path string }
			Response map[string]any
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("audit log: %v in %s", err, line)
		}
		if entry.Type == "response" && entry.Request.Path == path {
			found = append(found, entry.Response)
		}
	}
	return found
}

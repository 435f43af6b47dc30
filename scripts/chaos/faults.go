package chaos

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// orphanLife is how long a plugin that lost its Vault is left alone.
const orphanLife = 5 * time.Second

// breakProcesses kills and restarts until ctx ends. A step is complete before the
// next one, so in the end everything runs.
func (w *world) breakProcesses(ctx context.Context) error {
	for fault := range sequence(w.options.Seed, "processes", processFaults(w.cluster != nil), processTempo) {
		if pause(ctx, fault.Pause); ctx.Err() != nil {
			break
		}
		if err := attempt(w.t, func(t harness.TB) { w.breakProcess(t, fault) }); err != nil {
			return fmt.Errorf("%s: %w", fault.Kind, err)
		}
	}
	return nil
}

// breakProcess does one step. What it notes in the history is the moment of the
// blow, not the recovery.
func (w *world) breakProcess(t harness.TB, fault Fault) {
	leader := w.leader(t)
	switch fault.Kind {
	case KillPlugin:
		pids := leader.PluginPIDs(t)
		if len(pids) == 0 {
			return // Vault starts it with the next request
		}
		end := w.history.begin(fault.Kind, "", "")
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
		end()
		return
	case StepDown:
		end := w.history.begin(fault.Kind, "", "")
		w.cluster.StepDown(t)
		end()
		return
	case KillVaultAlone:
		end := w.history.begin(fault.Kind, "", "")
		orphans := leader.KillLeavingPlugins(t)
		end()
		for _, orphan := range orphans {
			time.AfterFunc(orphanLife, orphan.End)
		}
	default:
		end := w.history.begin(fault.Kind, "", "")
		leader.Kill(t)
		end()
	}
	time.Sleep(fault.For)
	leader.Restart(t)
}

// breakLine spoils the way to Hydra until ctx ends, and mends it then.
func (w *world) breakLine(ctx context.Context, l line) error {
	for fault := range sequence(w.options.Seed, "line "+l.name, networkFaults, networkTempo) {
		if pause(ctx, fault.Pause); ctx.Err() != nil {
			break
		}
		err := attempt(w.t, func(t harness.TB) {
			end := w.history.begin(fault.Kind, l.name, "")
			defer end()
			defer l.door.Spoil("")
			if toxic := toxicOf(fault); toxic != nil {
				l.proxy.Add(t, *toxic)
			} else if fault.Kind == Cut {
				l.proxy.Cut(t)
			} else {
				l.door.Spoil(fault.Kind)
			}
			pause(ctx, fault.For)
			l.proxy.Mend(t)
		})
		if err != nil {
			return fmt.Errorf("%s of %s: %w", fault.Kind, l.name, err)
		}
	}
	return nil
}

// toxicOf is the toxic that makes the fault, nil if none does.
func toxicOf(fault Fault) *harness.Toxic {
	upTo := func(low, high uint32) uint32 { return low + fault.Pick%(high-low) }
	switch fault.Kind {
	case Slow:
		return &harness.Toxic{Type: "latency", Attributes: harness.Fields{"latency": upTo(50, 1500), "jitter": upTo(10, 200)}}
	case Trickle:
		return &harness.Toxic{Type: "slicer", Attributes: harness.Fields{"average_size": upTo(16, 128), "size_variation": 8, "delay": 1000 * upTo(1, 50)}}
	case Reset:
		return &harness.Toxic{Type: "reset_peer", Attributes: harness.Fields{"timeout": upTo(0, 50)}}
	case ResetUpstream:
		return &harness.Toxic{Type: "reset_peer", Upstream: true, Attributes: harness.Fields{"timeout": upTo(0, 50)}}
	case Silence:
		return &harness.Toxic{Type: "timeout", Attributes: harness.Fields{"timeout": upTo(0, 2500)}}
	case SilenceUp:
		return &harness.Toxic{Type: "timeout", Upstream: true, Attributes: harness.Fields{"timeout": upTo(0, 2500)}}
	case CutShort:
		return &harness.Toxic{Type: "limit_data", Attributes: harness.Fields{"bytes": upTo(10, 800)}}
	}
	return nil
}

// kill is a deed of an operator that ends grants.
type kill struct {
	Kind Kind
	// Entity, Role, Provider or Subject is whose grants.
	Entity, Role, Provider, Subject string
	Began                           time.Time
	// Answered is when Vault said that it is done, zero if it never did.
	Answered time.Time
	// Frozen is set if nothing new could be granted until Thawed.
	Frozen bool
	Thawed time.Time
}

func (k *kill) covers(r *Request) bool {
	return (k.Entity == "" || k.Entity == r.Entity) && (k.Role == "" || k.Role == r.Role) && (k.Provider == "" || k.Provider == r.Provider) &&
		(k.Subject == "" || k.Subject == r.Subject)
}

// operate does what operators do until ctx ends.
func (w *world) operate(ctx context.Context) error {
	for deed := range sequence(w.options.Seed, "operators", operatorDeeds, operatorTempo) {
		if pause(ctx, deed.Pause); ctx.Err() != nil {
			break
		}
		if err := w.deed(ctx, deed); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) deed(ctx context.Context, deed Fault) error {
	victim, role := w.clients[int(deed.Pick)%len(w.clients)], w.roles[int(deed.Pick)%len(w.roles)]
	k := kill{Kind: deed.Kind}
	path, fields := "", map[string]any{}
	switch deed.Kind {
	case Sweep:
		_, _ = w.asRoot(mountPath+"/sweep", nil, time.Minute)
		return nil
	case Disable:
		path, fields["disabled"] = "identity/entity/id/"+victim.entity, true
		k.Entity = victim.entity
	case RevokePrefix:
		path, fields["sync"] = "sys/leases/revoke-prefix/"+mountPath+"/creds/"+role.name, true
		k.Role = role.name
	case Emergency:
		path, fields["emergency"] = mountPath+"/issuer/rotate", true
		k.Provider = ownProvider // all that it has signed before
	case RevokeEntity, FreezeEntity:
		path, k.Entity = mountPath+"/revoke/entity/"+victim.entity, victim.entity
	case RevokeRole, FreezeRole:
		path, k.Role = mountPath+"/revoke/role/"+role.name, role.name
	case RevokeProvider, FreezeProvider:
		path, k.Provider = mountPath+"/revoke/provider/"+role.provider, role.provider
	}
	about := k.Entity + k.Role + k.Provider
	switch deed.Kind {
	case FreezeEntity, FreezeRole, FreezeProvider:
		k.Frozen, fields["freeze"] = true, true
	}
	end := w.history.begin(deed.Kind, "", about)
	defer end()
	k.Began = time.Now()
	if _, err := w.asRoot(path, fields, time.Minute); err == nil {
		k.Answered = time.Now()
	}
	if k.Frozen {
		pause(ctx, deed.For)
		k.Thawed = time.Now()
		if _, err := w.asRoot(path, map[string]any{"freeze": false}, 2*time.Minute); err != nil {
			return fmt.Errorf("thawing %s: %w", about, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kills = append(w.kills, k)
	return nil
}

// asRoot writes to whichever node answers, again and again until one does.
func (w *world) asRoot(path string, fields map[string]any, patience time.Duration) (data map[string]any, err error) {
	deadline := time.Now().Add(patience)
	for i := 0; ; i++ {
		node := w.root[i%len(w.root)]
		secret, err := node.Logical().Write(path, fields)
		switch {
		case err == nil && secret == nil:
			return nil, nil
		case err == nil:
			return secret.Data, nil
		case isFinal(err):
			return nil, err
		case time.Now().After(deadline):
			return nil, fmt.Errorf("not within %s: %w", patience, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

package chaos

import (
	"hash/fnv"
	"iter"
	"math/rand/v2"
	"time"
)

// Kind names a fault, or what an operator does.
type Kind string

// Faults of processes.
const (
	KillPlugin     Kind = "plugin killed"
	KillVault      Kind = "vault killed"
	KillVaultAlone Kind = "vault killed, its plugin left"
	StepDown       Kind = "leader stepped down"
)

// Faults of the network. Upstream ones lose requests, the others answers.
const (
	Cut           Kind = "cut off"
	Slow          Kind = "slowed"
	Trickle       Kind = "trickling"
	Reset         Kind = "answers reset"
	ResetUpstream Kind = "requests reset"
	Silence       Kind = "answers dropped"
	SilenceUp     Kind = "requests dropped"
	CutShort      Kind = "answers cut short"
)

// Faults of the server, which the recorder makes.
const (
	ErrorInstead Kind = "500 without the work"
	ErrorAfter   Kind = "500 after the work"
	Busy         Kind = "429"
	HalfBody     Kind = "half a body"
	HangUp       Kind = "hung up after the work"
)

// Deeds of operators.
const (
	RevokeEntity   Kind = "revoke/entity"
	RevokeRole     Kind = "revoke/role"
	RevokeProvider Kind = "revoke/provider"
	RevokePrefix   Kind = "lease revoke -prefix"
	FreezeEntity   Kind = "freeze entity"
	FreezeRole     Kind = "freeze role"
	FreezeProvider Kind = "freeze provider"
	Disable        Kind = "entity disabled for good"
	Sweep          Kind = "sweep"
	Emergency      Kind = "emergency rotation"
)

// What the identity provider's transmitter of security events does.
const (
	SessionRevoked   Kind = "session-revoked event"
	EventsForgotten  Kind = "acknowledgements forgotten"
	EventsLost       Kind = "events lost on the way"
	EventsBusy       Kind = "transmitter busy"
	EventsNonsense   Kind = "transmitter answers nonsense"
	EventsWithoutEnd Kind = "transmitter always has more"
)

// Fault is one step of a lane.
type Fault struct {
	Pause time.Duration // since the lane's previous step was over
	Kind  Kind
	For   time.Duration // how long it lasts, where it lasts
	Pick  uint32        // chooses a victim or an amount
}

// choice is a kind with its weight.
type choice struct {
	kind   Kind
	weight int
}

// tempo bounds the pauses of a lane and the duration of its steps.
type tempo struct {
	pauseMin, pauseMax time.Duration
	lastMin, lastMax   time.Duration
}

var (
	processTempo  = tempo{2 * time.Second, 9 * time.Second, 0, time.Second}
	networkTempo  = tempo{500 * time.Millisecond, 4 * time.Second, 200 * time.Millisecond, 2 * time.Second}
	eventTempo    = tempo{300 * time.Millisecond, 3 * time.Second, 200 * time.Millisecond, 2 * time.Second}
	operatorTempo = tempo{500 * time.Millisecond, 4 * time.Second, 300 * time.Millisecond, 3 * time.Second}
)

func processFaults(cluster bool) []choice {
	faults := []choice{{KillPlugin, 6}, {KillVault, 2}, {KillVaultAlone, 1}}
	if cluster {
		faults = append(faults, choice{StepDown, 3})
	}
	return faults
}

var networkFaults = []choice{
	{Cut, 3}, {Slow, 2}, {Trickle, 1}, {Reset, 2}, {ResetUpstream, 1}, {Silence, 2}, {SilenceUp, 1}, {CutShort, 3},
	{ErrorInstead, 2}, {ErrorAfter, 2}, {Busy, 2}, {HalfBody, 3}, {HangUp, 2},
}

var eventSteps = []choice{{SessionRevoked, 6}, {EventsForgotten, 2}, {EventsLost, 2}, {EventsBusy, 1}, {EventsNonsense, 1}, {EventsWithoutEnd, 1}}

var operatorDeeds = []choice{
	{RevokeEntity, 6}, {RevokeRole, 2}, {RevokeProvider, 1}, {RevokePrefix, 1},
	{FreezeEntity, 3}, {FreezeRole, 2}, {FreezeProvider, 2}, {Disable, 1}, {Sweep, 2}, {Emergency, 2},
}

// sequence is the endless sequence of a lane's steps: a function of seed and name.
func sequence(seed uint64, lane string, kinds []choice, t tempo) iter.Seq[Fault] {
	return func(yield func(Fault) bool) {
		random := seeded(seed, lane)
		between := func(low, high time.Duration) time.Duration {
			return low + time.Duration(random.Int64N(int64(high-low)+1))
		}
		for {
			// In a fixed order, whatever the kind makes of it.
			fault := Fault{
				Pause: between(t.pauseMin, t.pauseMax), For: between(t.lastMin, t.lastMax),
				Kind: pick(random, kinds), Pick: random.Uint32(),
			}
			if !yield(fault) {
				return
			}
		}
	}
}

func pick(random *rand.Rand, kinds []choice) Kind {
	total := 0
	for _, c := range kinds {
		total += c.weight
	}
	at := random.IntN(total)
	for _, c := range kinds {
		if at -= c.weight; at < 0 {
			return c.kind
		}
	}
	return ""
}

// seeded is a source of its own for each name.
func seeded(seed uint64, name string) *rand.Rand {
	stream := fnv.New64a()
	_, _ = stream.Write([]byte(name))
	return rand.New(rand.NewPCG(seed, stream.Sum64()))
}

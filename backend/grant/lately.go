package grant

import "sync"

// latelyRoom is how many bytes of records are kept in memory, at most: some twenty
// thousand of them.
const latelyRoom = 16 << 20

// lately are the records that this process has written last, byte for byte as storage has
// them: who renews a lease, or ends it, reads nothing then, which costs a call over Vault's
// plugin protocol ("renew" and "revoke" of make bench). Only Vault's active node writes,
// and the ledger writes a record under its grant's lock alone: it is taken out before
// storage is told anything else of it, and put in once storage has said that it is
// written. What was only read is never put in. So it is never older than what storage
// has, and where storage failed nothing is known here. Like anything in memory of the
// records it goes with the index when another node has written.
//
// A record holds what kills its token, and of that no more than storage does (see the
// package). It is here as long as its token lives, and not always as long.
//
// It is safe for concurrent use.
type lately struct {
	// room is the bound on both generations together.
	room int

	mu sync.Mutex
	// Of two generations the older one is forgotten when the younger one has filled its
	// half: so what is written last stays longest, without a list of it.
	young, old map[string][]byte // by the grant's id
	size       int               // of young
}

func newLately(room int) *lately { return &lately{room: room, young: map[string][]byte{}} }

// put is for a record that is written. Its bytes must not be changed any more.
func (r *lately) put(id string, record []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropLocked(id)
	size := sizeOf(id, record)
	if size > r.room/2 {
		return
	}
	if r.size+size > r.room/2 {
		r.young, r.old, r.size = map[string][]byte{}, r.young, 0
	}
	r.young[id] = record
	r.size += size
}

// drop is for a record of which storage is about to be told something.
func (r *lately) drop(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropLocked(id)
}

func (r *lately) dropLocked(id string) {
	if record, ok := r.young[id]; ok {
		delete(r.young, id)
		r.size -= sizeOf(id, record)
	}
	delete(r.old, id)
}

func sizeOf(id string, record []byte) int { return len(id) + cap(record) }

// get is a record as storage has it; nil if that is not known here.
func (r *lately) get(id string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if record, ok := r.young[id]; ok {
		return record
	}
	return r.old[id]
}

// Package ending is everything by which a grant dies, and by which no new one begins.
//
// A grant dies by the end of its lease or of the last share in it (Kill), by an operator's
// kill of one (KillThis) or of all of an entity, a role, a provider or an issuer
// (KillAll), by the sweep, which finds what has outlived its lease and whose holder is
// gone, disabled or unfit (Sweep), and by the end of the mount (Leave, End). A child that
// is not handed out dies too (Discard). Nothing outside of this package can call a
// provider's Revoke.
//
// What is on record comes down to one function, try in kill.go: it decides what the end
// of a grant takes, kills at the provider, forgets what is dead, and puts what is not
// into the outbox (outbox.go). Whatever else a grant's end may have to do has its place
// there.
//
// A lease's end is Kill and try. An entity's kill is
//
//	KillAll     writes the order, so that a crash ends nothing, and executes it
//	chosen      says whose records to read, and which grants are meant
//	startKill   reads along them, and queues what it finds by provider
//	killEach    tries each of a provider's once, some at a time
//	execute     deletes the order when all were tried; what failed is in the outbox
//
// and the sweep tries the outbox again (killDue), goes on with orders that a crash has
// left (resumeOrders), and asks Vault who the holders are now (sweepHolders).
//
// What hangs on one lever dies together, and not before the last lease on it has ended
// unless somebody means it (lever.go, pulls.go). A mint whose answer nobody has recorded is looked
// for by its name (intent.go).
//
// What may get no new grants is the Freezer's. Its promise with a kill is that one of
// both finds a mint in flight: a freeze is in memory before its kill begins, and a mint
// looks for freezes after its grant is on record.
package ending

// Package ending is everything by which a grant dies, and by which no new one begins.
//
// A grant dies by the end of its lease or of the last share in it (Kill), by an operator's
// kill of one (KillThis) or of all of an entity, a role, a provider or an issuer
// (KillAll), by the sweep, which finds what has outlived its lease and whose holder is
// gone, disabled or unfit (Sweep), and by the end of the mount (Leave, End). A child that
// is not handed out dies too (Discard). All of them come down to one function, which
// kills at the provider, forgets what is dead, and writes into the outbox what is not;
// and nothing outside of this package can call a provider's Revoke.
//
// What may get no new grants is the Freezer's.
package ending

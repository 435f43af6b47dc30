// Package chaos is the fault run: many clients issue, renew and revoke through
// the built plugin in a real Vault, a real Hydra mints, and all the while plugin
// and Vault are SIGKILLed, the leader steps down, the network to Hydra breaks in
// every way that Toxiproxy knows, Hydra seems to fail, and operators kill, freeze
// and disable. When it is over, Hydra itself is asked about every token that it
// has ever minted.
//
//	clients → Vault (plugin) → Toxiproxy → recorder → Hydra
//
// The recorder is ours. It stands next to Hydra, sees every token that Hydra
// really minted whatever becomes of the answer, and can answer in Hydra's place.
//
// # What is proven
//
// A token that Hydra still calls active must belong to a live grant with a live
// lease. Otherwise its answer must have been lost on the way, and that is judged
// strictly, for each token by itself. Every request asks for a scope that nobody
// else asks for, so mint, grant, and what the client was told are matched exactly:
//
//   - the recorder itself withheld the answer, or the part of it with the token;
//   - or the plugin answered with a failure (or the client had given up), its log says
//     that the answer was lost, and the network was broken while it travelled, or Hydra
//     took longer than the plugin may wait;
//   - or the plugin or its Vault was killed (or, in a cluster, the leader stepped
//     down) after the request for the token left and before the client's request
//     had ended.
//
// Two further roles are judged alike. With sharing=entity a client asks for the same
// scope a while, and its requests share a token: that may live while one of their
// leases does. A provider jwt signs children of the broker's own, which no Hydra knows:
// there oauth/introspect is asked about every token that a client has got, nothing
// explains one that is active and not held, and an emergency rotation ends them all.
//
// A fourth is for those who bring a user's token. Its issuer's transmitter of security
// events says now and then that a user's session is over, and loses answers, forgets
// acknowledgements and talks nonsense: every event must be acknowledged in the end, and
// what was given on the user's behalf before it was sent must be dead.
//
// Any other active token is unexplained, and fails the run: one whose answer was
// delivered whole to a living plugin, one that a client got and whose lease is
// gone, one of a disabled entity. So is a token found active right after Vault
// said that its lease is revoked, and a token that died although its lease lives
// and nobody asked for that.
//
// # A seed
//
// The sequence of faults of each lane (processes, each line to Hydra, operators,
// security events)
// depends on the seed alone; how much of it fits depends on the duration and the
// machine.
package chaos

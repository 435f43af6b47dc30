// Package kills keeps what was killed on whose word: one record for each kill that an
// operator, a signal or an entity's end has caused, with what each provider answered, and
// when. It is what an auditor is shown.
//
// A record is no part of the kill. Whoever kills tells it here, which takes memory and no
// time; what was told is written in the background, many grants by one write, and a record
// that cannot be written makes no kill wait or fail. So after a crash it may lack what was
// told in the last seconds before, and says so.
package kills

package agent

import "time"

// pace reckons how many attempts are likely to end while a claim is under way.
// So many jobs are claimed early, that is, beyond the free slots: these would
// else be idle from the end of their attempts until the next claim's answer. It
// comes to nothing where attempts take long. No more attempts run than there are
// slots; what was claimed early and finds none is handed back (forSlot).
type pace struct {
	took  time.Duration // the last claim
	ended int           // attempts that went well since
	since time.Time
	ends  int // what came of it last
}

// longestClaim bounds the claims that pace reckons with, so that what is claimed
// early begins within half of forSlot.
const longestClaim = forSlot / 2

// reckon begins anew as soon as a claim's time has passed.
func (p *pace) reckon(now time.Time) (ends int) {
	claim := min(p.took, longestClaim)
	if elapsed := now.Sub(p.since); elapsed > 0 && elapsed >= claim {
		p.ends = int(float64(p.ended) * claim.Seconds() / elapsed.Seconds())
		p.since, p.ended = now, 0
	}
	return p.ends
}

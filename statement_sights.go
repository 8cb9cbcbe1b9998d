package pgpooled

import "hash/maphash"

// sights counts how often texts were seen lately: at the end of each period, of
// so many calls, every count is halved. It remembers no text of which only half a
// sight is left, so its size is bounded.
type sights struct {
	period, calls int
	counts        map[uint64]uint16 // by the hash of the text
}

var hashSeed = maphash.MakeSeed()

func newSights(period int) sights {
	return sights{period: period, counts: make(map[uint64]uint16)}
}

// note counts a sight of a text and returns how many there were.
func (s *sights) note(text string) int {
	h := maphash.String(hashSeed, text)
	n := s.counts[h]
	if n < 1<<15 {
		n++
	}
	s.counts[h] = n
	return int(n)
}

func (s *sights) forget(text string) { delete(s.counts, maphash.String(hashSeed, text)) }

// tick counts a call and says whether it ends a period.
func (s *sights) tick() bool {
	if s.calls++; s.calls < s.period {
		return false
	}
	s.calls = 0
	return true
}

// age halves all counts.
func (k *stmtCache) age() {
	for h, n := range k.sights.counts {
		if n /= 2; n > 0 {
			k.sights.counts[h] = n
		} else {
			delete(k.sights.counts, h)
		}
	}
	for _, e := range k.byText {
		e.uses /= 2
	}
}

// onceAndAgain is how often a text has to be seen to take the place of a statement
// that is not used any more. One that the caller prepares was seen so often.
const onceAndAgain = 4

// displaces says whether a text that was seen so often takes the place of a
// statement that was used so often. Closing that one costs a round trip, which
// only more hits than it would have had can earn back: of more texts than fit,
// all equally frequent, those that are in stay.
func displaces(seen, uses int) bool { return seen >= onceAndAgain+2*uses }

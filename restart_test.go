package pgpooled_test

import (
	"testing"

	"github.com/pgpooled/pgpooled/internal/cutmatrix"
	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// Twenty callers on ten connections read and write without a pause while the
// server is restarted in every way there is: once each, three times for good
// measure, ten times with PGPOOLED_TEST_LONG=1.
func TestRestartsUnderTwentyCallersLoseNothingAndDoNothingTwice(t *testing.T) {
	t.Parallel()
	rounds := 3
	if long {
		rounds = 10
	}
	for _, tls := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "TLS"}[tls], func(t *testing.T) {
			t.Parallel()
			s := pgtest.StartT(t, pgtest.Options{TLS: true})
			for round := range rounds {
				r, err := cutmatrix.Restarts(testContext(t), s, pooled, tls, cutmatrix.RestartModes)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range r.Faults {
					t.Error(f)
				}
				if r.ReadsFailed+r.ReadsShort+r.Lost+r.Doubled+r.Lied+r.FailedDone > 0 {
					t.Errorf("round %d: %+v", round, r)
				}
				if most := r.Restarts * cutmatrix.Connections; r.Unknown > most {
					t.Errorf("round %d: %d unknown outcomes, more than one per connection and restart (%d)", round, r.Unknown, most)
				}
				// An INSERT is either not sent, and repeated, or unknown.
				if r.WritesFailed > 0 {
					t.Errorf("round %d: %d writes failed that could have been repeated", round, r.WritesFailed)
				}
				t.Logf("round %d: %d restarts, %d reads (%d broke off half way), %d writes (%d unknown)",
					round, r.Restarts, r.Reads, r.ReadsPartial, r.Writes, r.Unknown)
			}
		})
	}
}

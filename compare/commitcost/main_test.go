package main

import (
	"context"
	"math"
	"testing"

	"github.com/pgpooled/pgpooled/internal/pgtest"
)

// What docs/commit-check.md says: one round trip more with the transaction's id,
// none with the ledger, save its upkeep.
func TestRoundTripsOfATransaction(t *testing.T) {
	s := pgtest.StartT(t, pgtest.Options{})
	if _, err := s.Admin().Exec("CREATE TABLE orders (id bigserial PRIMARY KEY, article text)"); err != nil {
		t.Fatal(err)
	}
	for way, want := range map[string]float64{"lib/pq": 3, "off": 3, "on": 4, "ledger": 3} {
		got, err := roundTrips(context.Background(), s, way)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(got-want) > 0.05 {
			t.Errorf("%s: %.2f round trips, want %.0f", way, got, want)
		}
	}
}

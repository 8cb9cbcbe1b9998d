package pgpooled_test

import (
	"testing"

	"github.com/pgpooled/pgpooled/internal/cutmatrix"
)

// The connection is cut, with FIN and with RST, after each byte of the exchange
// in both directions, plain and under TLS, for each kind of call (lib/pq #939:
// 220 of 1409 such writes were done twice, most of them with a nil error).
//
// The default run takes a sample of the bytes and logs its step;
// PGPOOLED_TEST_LONG=1 takes them all.
func TestNoCallCutAtAnyByteIsDoneTwiceOrFalselyReported(t *testing.T) {
	t.Parallel()
	kinds := cutmatrix.Kinds()
	if len(kinds) < 20 {
		t.Fatalf("%d kinds of call", len(kinds))
	}
	for _, kind := range kinds {
		cutMatrix(t, kind)
	}
}

package pgpooled

import (
	"context"
	"testing"
	"time"
)

// A token is good for an hour by the wall clock, which goes on while a laptop
// sleeps: the row may have been deleted since.
func TestLedgerIsNotAskedLongAfterTheCommit(t *testing.T) {
	tk := &ticket{token: newToken(), at: time.Now().Add(-ledgerKeeps - time.Minute)}
	if committed, err := tk.findOut(context.Background()); committed || err != errLedgerTooOld {
		t.Errorf("%t, %v", committed, err)
	}
}

package pgpooled

import "strings"

// endsTx says whether a text ends the transaction that it runs in, and whether
// something may be committed by the text itself: it commits, or goes on after
// the end, where each statement commits by itself.
func endsTx(query string) (ends, commits bool) {
	lx := lexer{src: query}
	first := true
	back := false // after ROLLBACK, which may yet turn out to go to a savepoint
	for {
		t := lx.next()
		if back && !(t.kind == tokenWord && (t.text == "work" || t.text == "transaction")) {
			ends, back = ends || t.text != "to", false
		}
		switch t.kind {
		case tokenEnd:
			return ends, commits
		case tokenDoubt:
			return true, true
		case tokenSemicolon:
			first = true
			continue
		}
		if first {
			commits = commits || ends
			switch t.text {
			case "commit", "end", "prepare":
				ends, commits = true, true
			case "rollback", "abort":
				back = true
			}
		}
		first = false
	}
}

// mayEndTx is endsTx for every statement of a transaction, at the price of a
// look at the first word unless there are several statements.
func mayEndTx(query string) bool {
	if strings.IndexByte(query, ';') < 0 && !endWords[firstWord(query)] {
		return false
	}
	ends, _ := endsTx(query)
	return ends
}

// mayBeginTx says whether a text may begin a transaction. One among several
// statements is looked for by its word only.
func mayBeginTx(query string) bool {
	return beginWords[firstWord(query)] || strings.IndexByte(query, ';') >= 0 && containsAny(query, []string{"begin", "start"})
}

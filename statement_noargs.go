package pgpooled

// noArgsSights is how often a text without arguments has to be seen before it is
// prepared, which costs a round trip more: what the server then saves has to earn
// it back. It is one call in a hundred or so, lately. A small cache forgets
// sooner.
func (k *stmtCache) noArgsSights() int { return min(16, 4*k.limit) }

// worth says how a text comes: in what way, and so when it gets into the cache.
type worth int

const (
	noArgs    worth = iota // without arguments: when it comes often, outside transactions
	withArgs               // at second sight: preparing sends no more than the call does
	byPrepare              // the caller prepares it: at once
)

// comes says how the text of a call comes.
func (i *interceptor) comes(args int) worth {
	switch {
	case i.prepared:
		return byPrepare
	case args > 0:
		return withArgs
	}
	return noArgs
}

// returnsRows says whether what a text does to rows, if anything, returns some.
// Where a rule adds a SELECT to a write, PostgreSQL sends that one's rows only if
// the text was not prepared.
func returnsRows(query string) bool {
	lx := lexer{src: query}
	writes := false
	for {
		t := lx.next()
		switch {
		case t.kind == tokenEnd, t.kind == tokenDoubt:
			return false
		case lx.depth > 0:
		case writes:
			if t.text == "returning" {
				return true
			}
		case t.text == "select", t.text == "values", t.text == "table":
			return true
		case t.text == "insert", t.text == "update", t.text == "delete", t.text == "merge":
			writes = true
		}
	}
}

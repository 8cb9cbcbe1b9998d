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

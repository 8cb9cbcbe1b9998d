package pgpooled

import "strings"

// cacheable says whether a text can be prepared, gains from it and means the same
// whenever it is read: it begins like what reads or writes rows.
func cacheable(query string) bool {
	return rowWords[firstWord(query)] && !readsTheClock(query)
}

// single says whether a text is one statement without parameters: what a call
// without arguments can prepare.
func single(query string) bool {
	if strings.IndexByte(query, ';') < 0 && strings.IndexByte(query, '$') < 0 {
		return true
	}
	lx := lexer{src: query}
	ended := false
	for {
		lx.skipBlank()
		if rest := lx.src[lx.pos:]; len(rest) > 1 && rest[0] == '$' && isDigit(rest[1]) {
			return false
		}
		switch lx.next().kind {
		case tokenEnd:
			return true
		case tokenDoubt:
			return false
		case tokenSemicolon:
			ended = true
		default:
			if ended {
				return false
			}
		}
	}
}

// readsTheClock says whether a text may have a literal that stands for the time
// at which the text is read, as 'today': kept, it would stand still.
func readsTheClock(query string) bool {
	if !containsAny(query, clockWords) {
		return false
	}
	lx := lexer{src: query}
	for {
		from := lx.pos
		switch lx.next().kind {
		case tokenEnd:
			return false
		case tokenDoubt:
			return true
		case tokenOther: // a string, unless it has no such word
			if containsAny(query[from:lx.pos], clockWords) {
				return true
			}
		}
	}
}

// change is what a text may do to the meaning of others.
type change int

const (
	changesNothing change = iota
	changesSession        // to what the session says, or takes its prepared statements away
	changesTables         // to what every session says
)

// changeBy says what a text may change. PostgreSQL reads a kept text again when
// its tables or the search_path have changed, but with the parameters' types that
// it had; and it does not when only the meaning of a literal has, as with the time
// zone.
func changeBy(query string) (most change) {
	lx := lexer{src: query}
	several := strings.IndexByte(query, ';') >= 0
	var first, prev token
	for {
		t := lx.next()
		switch t.kind {
		case tokenEnd:
			return most
		case tokenDoubt:
			return max(most, changesSession)
		case tokenSemicolon:
			first, prev = token{}, token{}
			continue
		}
		if first.kind == tokenNone {
			first = t
			switch {
			case t.text == "alter":
				return changesTables
			case planWords[t.text]:
				most = changesSession
			}
			if !several && t.text != "set" {
				if t.text != "select" && t.text != "with" || !containsAny(query, selectWords) {
					return most
				}
			}
		}
		switch {
		case first.text == "set" && (movesPlans(t.text) || t.kind == tokenQuoted),
			t.text == "into" && prev.text != "insert" && prev.text != "merge",
			t.text == "set_config" && setsMeaning(query[lx.pos:]):
			most = changesSession
		}
		prev = t
	}
}

func firstWord(query string) string {
	lx := lexer{src: query}
	return lx.next().text
}

// setsMeaning says whether a call of set_config may change more than the
// session's other settings. args is what follows its name.
func setsMeaning(args string) bool {
	args = strings.TrimLeft(args, " \t\r\n(")
	if !strings.HasPrefix(args, "'") {
		return true // a name from elsewhere
	}
	name, _, ended := strings.Cut(args[1:], "'")
	return !ended || movesPlans(lowerASCII(name))
}

// movesPlans says whether plans depend on a parameter: what they mean, or how
// good they are. PostgreSQL plans a kept text again for the search_path alone.
func movesPlans(setting string) bool {
	return planSettings[setting] || plannerSettings[setting] || strings.HasPrefix(setting, "enable_") ||
		strings.HasPrefix(setting, "geqo") || strings.HasPrefix(setting, "jit") || strings.HasSuffix(setting, "_cost")
}

// containsAny says whether a text has one of the words in it, whatever the case.
// They are in lower case and begin with two letters.
func containsAny(text string, words []string) bool {
	for _, w := range words {
		for i := 0; i+len(w) <= len(text); i++ {
			if text[i]|0x20 == w[0] && text[i+1]|0x20 == w[1] && strings.EqualFold(text[i:i+len(w)], w) {
				return true
			}
		}
	}
	return false
}

var (
	rowWords    = wordSet("select insert update delete merge values table with")
	planWords   = wordSet("create drop discard deallocate reset do call")
	endWords    = wordSet("commit end prepare rollback abort")
	beginWords  = wordSet("begin start")
	clockWords  = []string{"now", "today", "tomorrow", "yesterday"}
	selectWords = []string{"into", "set_config"}

	// planSettings are the parameters, and the words of SET for them, on which
	// the meaning of names and literals depends.
	planSettings = wordSet(`search_path schema role authorization session_authorization timezone zone datestyle
		intervalstyle standard_conforming_strings backslash_quote transform_null_equals array_nulls
		lc_monetary xmloption xml names client_encoding`)

	// plannerSettings are parameters of the planner, beside those that movesPlans
	// knows by a part of their name.
	plannerSettings = wordSet(`plan_cache_mode work_mem hash_mem_multiplier effective_cache_size constraint_exclusion
		from_collapse_limit join_collapse_limit cursor_tuple_fraction recursive_worktable_factor
		max_parallel_workers_per_gather min_parallel_table_scan_size min_parallel_index_scan_size
		parallel_leader_participation debug_parallel_query force_parallel_mode row_security`)
)

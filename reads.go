package pgpooled

import "strings"

// onlyReads says whether a text does nothing but read, as far as a text can
// tell: it consists of SELECT, VALUES, TABLE, SHOW, or WITH of those, has no word
// that modifies data, no INTO, and calls no function but built-in ones without
// side effects. When in doubt it writes; so does what asks whether writing is
// allowed, because the repetition would answer for itself.
//
// It cannot be a proof: views, operators and functions written as columns can
// write. So whoever acts on it runs the text in a READ ONLY transaction.
func onlyReads(query string) bool {
	lx := lexer{src: query}
	first := true // of a statement
	shows := false
	any := false
	var before, prev, cur token
	qualified := "" // the schema before a dot
	for {
		before, prev, cur = prev, cur, lx.next()
		switch cur.kind {
		case tokenDoubt:
			return false
		case tokenEnd:
			return any && lx.depth == 0
		case tokenSemicolon:
			if lx.depth != 0 {
				return false
			}
			first = true
			continue
		case tokenOpen:
			if called := prev.kind == tokenWord || prev.kind == tokenQuoted; called && !first && !mayCall(prev, qualified) && !byGrammar(before, prev, lx) {
				return false
			}
			continue
		case tokenDot:
			switch qualified = prev.text; prev.kind {
			case tokenWord:
			case tokenQuoted:
				qualified = "?" // not pg_catalog, whatever it is
			default:
				return false // ('s').nextval calls it, as $1.nextval does
			}
			continue
		case tokenWord:
			if prev.kind != tokenDot {
				if modifies[cur.text] {
					return false
				}
				if first && !readers[cur.text] {
					return false
				}
			}
		default:
			if first {
				return false
			}
		}
		if shows && (cur.kind != tokenWord || cur.text == "all") {
			return false
		}
		if prev.kind != tokenDot {
			qualified = ""
		}
		shows = first && cur.text == "show"
		first, any = false, true
	}
}

// mayCall says whether a name may stand before an opening parenthesis.
func mayCall(name token, schema string) bool {
	if name.kind == tokenQuoted {
		return false
	}
	if schema != "" {
		return schema == "pg_catalog" && harmless[name.text]
	}
	return harmless[name.text] || beforeParen[name.text]
}

// byGrammar says whether a parenthesis belongs to the grammar after a word that
// may be the name of a function elsewhere. lx is behind the parenthesis.
func byGrammar(before, word token, lx lexer) bool {
	switch word.text {
	case "filter", "over": // of an aggregate
		return before.kind == tokenClose
	case "by":
		return before.text == "group" || before.text == "order" || before.text == "partition"
	case "sets":
		return before.text == "grouping"
	case "varying":
		return before.text == "character" || before.text == "char" || before.text == "bit"
	case "materialized", "join": // no argument begins with such a word
		return readers[lx.next().text]
	}
	return false
}

func wordSet(words string) map[string]bool {
	set := make(map[string]bool)
	for _, w := range strings.Fields(words) {
		set[w] = true
	}
	return set
}

var (
	readers = wordSet("select values table show with")

	// modifies are the words with which a statement that begins like a reading one
	// can write. FOR UPDATE and FOR SHARE lock rows, which READ ONLY refuses;
	// UESCAPE stands between a quoted name and its parenthesis; the last ones
	// show that the repetition is READ ONLY.
	modifies = wordSet("insert update delete merge into share uescape transaction_read_only pg_settings")

	// beforeParen are words of the grammar, and types, that a parenthesis may
	// follow without being a call.
	beforeParen = wordSet(`select values from where and or not in as any all some exists on using
		row array when then else case between like ilike distinct limit
		offset union except intersect lateral group order having
		left right only with to grouping
		numeric decimal varchar char character bpchar bit float timestamp timestamptz time timetz
		interval precision`)

	// harmless are built-in functions without side effects.
	harmless = wordSet(`abs acos age array_agg array_append array_cat array_dims array_length array_lower
		array_ndims array_position array_positions array_prepend array_remove array_replace array_to_json
		array_to_string array_upper ascii asin atan atan2 avg bit_and bit_length bit_or bit_xor bool_and bool_or
		btrim cardinality cast cbrt ceil ceiling char_length character_length chr clock_timestamp coalesce
		concat concat_ws corr cos cot count covar_pop covar_samp cume_dist current_database current_query current_time current_timestamp
		current_schema current_schemas date date_bin date_part date_trunc decode degrees
		dense_rank div encode every exp extract factorial first_value floor format format_type gcd
		gen_random_uuid generate_series generate_subscripts get_bit get_byte greatest has_database_privilege
		has_schema_privilege has_table_privilege host hostmask inet_client_addr inet_client_port
		inet_server_addr inet_server_port initcap isfinite json_agg json_array_elements
		json_array_elements_text json_array_length json_build_array json_build_object json_each
		json_each_text json_extract_path json_extract_path_text json_object json_object_agg
		json_object_keys json_populate_record json_strip_nulls json_to_record json_to_recordset json_typeof
		jsonb_agg jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array
		jsonb_build_object jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text
		jsonb_insert jsonb_object jsonb_object_agg jsonb_object_keys jsonb_path_exists jsonb_path_match
		jsonb_path_query jsonb_path_query_array jsonb_path_query_first jsonb_populate_record jsonb_pretty
		jsonb_set jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_typeof justify_days
		justify_hours justify_interval lag last_value lcm lead least length ln localtime localtimestamp log
		log10 lower lower_inc lpad ltrim make_date make_interval make_time make_timestamp make_timestamptz
		masklen max md5 min mod mode netmask network now nth_value ntile nullif num_nonnulls num_nulls
		numrange int4range int8range daterange tsrange tstzrange obj_description octet_length overlay
		parse_ident percent_rank percentile_cont percentile_disc pg_backend_pid pg_column_size
		pg_database_size pg_get_constraintdef pg_get_expr pg_get_indexdef pg_get_viewdef
		pg_is_in_recovery pg_postmaster_start_time pg_relation_size pg_size_pretty pg_sleep
		pg_table_is_visible pg_table_size pg_total_relation_size pg_typeof phraseto_tsquery pi
		plainto_tsquery position pow power quote_ident quote_literal quote_nullable radians random range_merge
		rank regexp_count regexp_instr regexp_like regexp_match regexp_matches regexp_replace
		regexp_split_to_array regexp_split_to_table regexp_substr repeat replace reverse round
		row_number row_to_json rpad rtrim scale sha224 sha256 sha384 sha512 shobj_description sign sin
		split_part sqrt starts_with statement_timestamp stddev stddev_pop stddev_samp string_agg
		string_to_array string_to_table strpos substr substring sum tan timeofday to_char to_date to_hex
		to_json to_jsonb to_number to_timestamp to_tsquery to_tsvector transaction_timestamp translate trim
		trim_array trunc ts_headline ts_rank ts_rank_cd unnest upper upper_inc upper_inf lower_inf
		isempty var_pop var_samp variance version websearch_to_tsquery width_bucket xmlagg`)
)

type tokenKind int

const (
	tokenNone tokenKind = iota
	tokenEnd
	tokenDoubt  // unterminated, or ambiguous without the server's settings
	tokenWord   // a word without quotes, in lower case
	tokenQuoted // "a quoted name"
	tokenOther  // string, number, parameter, operator
	tokenOpen
	tokenClose
	tokenDot
	tokenSemicolon
)

type token struct {
	kind tokenKind
	text string // of tokenWord
}

// lexer splits a text as PostgreSQL's does (src/backend/parser/scan.l), as far
// as onlyReads needs it.
type lexer struct {
	src   string
	pos   int
	depth int // of parentheses
}

func (lx *lexer) next() token {
	if !lx.skipBlank() {
		return token{kind: tokenDoubt}
	}
	if lx.pos >= len(lx.src) {
		return token{kind: tokenEnd}
	}
	c := lx.src[lx.pos]
	switch {
	case c == 0:
		return token{kind: tokenDoubt}
	case isWordStart(c):
		return lx.word()
	case c == '\'':
		return lx.quoted('\'', false)
	case c == '"':
		return lx.quoted('"', false)
	case c == '$':
		return lx.dollar()
	case isDigit(c), c == '.' && lx.pos+1 < len(lx.src) && isDigit(lx.src[lx.pos+1]):
		return lx.number()
	}
	lx.pos++
	switch c {
	case '(':
		lx.depth++
		return token{kind: tokenOpen}
	case ')':
		if lx.depth--; lx.depth < 0 {
			return token{kind: tokenDoubt}
		}
		return token{kind: tokenClose}
	case '.':
		return token{kind: tokenDot}
	case ';':
		return token{kind: tokenSemicolon}
	}
	return token{kind: tokenOther}
}

// skipBlank skips white space and comments; block comments nest. It returns
// false if one does not end.
func (lx *lexer) skipBlank() bool {
	for lx.pos < len(lx.src) {
		rest := lx.src[lx.pos:]
		switch {
		case strings.IndexByte(" \t\n\r\f\v", rest[0]) >= 0:
			lx.pos++
		case strings.HasPrefix(rest, "--"):
			end := strings.IndexAny(rest, "\n\r")
			if end < 0 {
				end = len(rest)
			}
			lx.pos += end
		case strings.HasPrefix(rest, "/*"):
			if !lx.skipComment() {
				return false
			}
		default:
			return true
		}
	}
	return true
}

func (lx *lexer) skipComment() bool {
	for level := 0; lx.pos < len(lx.src); {
		switch rest := lx.src[lx.pos:]; {
		case strings.HasPrefix(rest, "/*"):
			level++
			lx.pos += 2
		case strings.HasPrefix(rest, "*/"):
			level--
			lx.pos += 2
			if level == 0 {
				return true
			}
		default:
			lx.pos++
		}
	}
	return false
}

func (lx *lexer) word() token {
	start := lx.pos
	for lx.pos < len(lx.src) && isWordPart(lx.src[lx.pos]) {
		lx.pos++
	}
	text := lowerASCII(lx.src[start:lx.pos])
	if lx.pos < len(lx.src) {
		switch c := lx.src[lx.pos]; {
		case c == '\'' && text == "e":
			return lx.quoted('\'', true)
		case c == '\'' && (text == "b" || text == "x" || text == "n"):
			return lx.quoted('\'', false)
		case c == '&' && text == "u" && lx.pos+1 < len(lx.src) && (lx.src[lx.pos+1] == '\'' || lx.src[lx.pos+1] == '"'):
			lx.pos++
			return lx.quoted(lx.src[lx.pos], false)
		}
	}
	return token{kind: tokenWord, text: text}
}

// quoted reads a string or a quoted name. A backslash in a plain string means
// one thing or the other, depending on standard_conforming_strings.
func (lx *lexer) quoted(quote byte, escapes bool) token {
	for lx.pos++; lx.pos < len(lx.src); lx.pos++ {
		switch c := lx.src[lx.pos]; {
		case c == 0:
			return token{kind: tokenDoubt}
		case c == '\\' && escapes:
			lx.pos++
		case c == '\\' && quote == '\'':
			return token{kind: tokenDoubt}
		case c == quote && lx.pos+1 < len(lx.src) && lx.src[lx.pos+1] == quote:
			lx.pos++
		case c == quote:
			lx.pos++
			if quote == '"' {
				return token{kind: tokenQuoted}
			}
			return token{kind: tokenOther}
		}
	}
	return token{kind: tokenDoubt}
}

// dollar reads $1, $$...$$ or $tag$...$tag$.
func (lx *lexer) dollar() token {
	end := lx.pos + 1
	if end < len(lx.src) && isDigit(lx.src[end]) {
		for lx.pos = end; lx.pos < len(lx.src) && isDigit(lx.src[lx.pos]); {
			lx.pos++
		}
		if lx.pos < len(lx.src) && isWordPart(lx.src[lx.pos]) {
			return token{kind: tokenDoubt} // as for number
		}
		return token{kind: tokenOther}
	}
	for end < len(lx.src) && lx.src[end] != '$' && isWordPart(lx.src[end]) {
		end++
	}
	if end >= len(lx.src) || lx.src[end] != '$' {
		return token{kind: tokenDoubt}
	}
	tag := lx.src[lx.pos : end+1]
	body := strings.Index(lx.src[end+1:], tag)
	if body < 0 {
		return token{kind: tokenDoubt}
	}
	lx.pos = end + 1 + body + len(tag)
	return token{kind: tokenOther}
}

// number reads digits. What follows them at once is part of the number to some
// versions of PostgreSQL and a word to others, as in "1into".
func (lx *lexer) number() token {
	for lx.pos < len(lx.src) && (isDigit(lx.src[lx.pos]) || lx.src[lx.pos] == '.') {
		lx.pos++
	}
	if lx.pos < len(lx.src) && isWordPart(lx.src[lx.pos]) {
		return token{kind: tokenDoubt}
	}
	return token{kind: tokenOther}
}

// lowerASCII leaves other letters alone, as PostgreSQL does: to Unicode the
// Kelvin sign is a k.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isWordStart(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

func isWordPart(c byte) bool {
	return isWordStart(c) || isDigit(c) || c == '$'
}

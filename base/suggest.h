/* suggest: the known word that resembles a mistyped one (pure). */
#ifndef CAIRN_BASE_SUGGEST_H
#define CAIRN_BASE_SUGGEST_H

#include <stddef.h>

#define SUGGEST_HINT_BYTES 96

/* Find the known word that resembles a word most. at: returns the known word with index i; NULL after the last one.
 * opaque: passed to at(). Returns the word as at() returned it; NULL: none resembles it. */
const char *suggest_word(const char *word, const char *(*at)(const void *opaque, size_t i), const void *opaque);

/* Write "; did you mean PREFIXWORD?" with that word, or "" if there is none. Returns buf. */
const char *suggest_hint(const char *word, const char *prefix, const char *(*at)(const void *opaque, size_t i),
	const void *opaque, char buf[SUGGEST_HINT_BYTES]);

#endif

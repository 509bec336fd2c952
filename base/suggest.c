#include "base/suggest.h"
#include "base/util.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define WORD_MAX 32

/* Returns the Damerau-Levenshtein distance (restricted: no letter is edited twice): insertions, deletions, changes and
 * swaps of neighbours. Words have at most WORD_MAX bytes. */
static unsigned words_distance(const char *a, size_t na, const char *b, size_t nb)
{
	unsigned char d[WORD_MAX + 1][WORD_MAX + 1];

	for (size_t i = 0; i <= na; i++) {
		for (size_t j = 0; j <= nb; j++) {
			if (!i || !j) {
				d[i][j] = (unsigned char)(i + j);
				continue;
			}
			d[i][j] = MIN(MIN(d[i - 1][j], d[i][j - 1]) + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				d[i][j] = MIN(d[i][j], d[i - 2][j - 2] + 1);
		}
	}
	return d[na][nb];
}

const char *suggest_word(const char *word, const char *(*at)(const void *opaque, size_t i), const void *opaque)
{
	size_t len = strlen(word);
	unsigned best = (unsigned)MIN(len / 4 + 1, 3u); /* a greater distance means that the user meant another word */
	const char *is, *found = NULL;

	if (len < 2 || len > WORD_MAX)
		return NULL;
	for (size_t i = 0; (is = at(opaque, i)); i++) {
		unsigned n = strlen(is) <= WORD_MAX ? words_distance(word, len, is, strlen(is)) : UINT32_MAX;

		if (n < best || (n == best && !found)) {
			best = n;
			found = is;
		}
	}
	return found;
}

const char *suggest_hint(const char *word, const char *prefix, const char *(*at)(const void *opaque, size_t i),
	const void *opaque, char buf[SUGGEST_HINT_BYTES])
{
	const char *found = suggest_word(word, at, opaque);

	buf[0] = 0;
	if (found)
		snprintf(buf, SUGGEST_HINT_BYTES, "; did you mean %s%s?", prefix, found);
	return buf;
}

#include "base/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define FRACTION_MAX 1000000000000000000ULL

uint64_t size_unit(const char *unit)
{
	static const char powers[] = "kmgtpe";
	const char *p = *unit ? strchr(powers, tolower((unsigned char)*unit)) : NULL;
	uint64_t base, bytes = 1;

	if (!strcasecmp(unit, "b") || !strcasecmp(unit, "byte") || !strcasecmp(unit, "bytes"))
		return 1;
	if (!p)
		return 0;
	if (!unit[1] || !strcasecmp(unit + 1, "ib"))
		base = 1024;
	else if (!strcasecmp(unit + 1, "b"))
		base = 1000;
	else
		return 0;
	for (; p >= powers; p--)
		bytes *= base;
	return bytes;
}

/* Parse the digits after the decimal point: the fraction is *ret_n divided by *ret_of. Digits beyond the precision are
 * skipped.
 * Returns the end of the digits. */
static const char *fraction_parse(const char *s, uint64_t *ret_n, uint64_t *ret_of)
{
	for (; isdigit((unsigned char)*s); s++)
		if (*ret_of < FRACTION_MAX) {
			*ret_n = *ret_n * 10 + (uint64_t)(*s - '0');
			*ret_of *= 10;
		}
	return s;
}

int size_parse(const char *s, uint64_t plain, uint64_t *ret_bytes)
{
	uint64_t whole, unit, n = 0, of = 1;
	const char *at;
	char *end;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	whole = strtoull(s, &end, 10); /* UINT64_MAX on overflow */
	at = end;
	if (*at == '.' && isdigit((unsigned char)at[1]))
		at = fraction_parse(at + 1, &n, &of);
	unit = *at ? size_unit(at) : plain;
	if (!unit || (n && unit == 1))
		return -EINVAL;
	n = (uint64_t)((unsigned __int128)unit * n / of);
	if (whole > (UINT64_MAX - n) / unit || whole == UINT64_MAX) {
		*ret_bytes = UINT64_MAX;
		return -ERANGE;
	}
	*ret_bytes = whole * unit + n;
	return 0;
}

#include "base/duration.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define DAY_S (24 * 3600)
#define UNITS "dhms"

/* Return the seconds of a unit. letter: one of "ywdhms". */
static int64_t unit_seconds(char letter)
{
	static const struct {
		char letter;
		int64_t seconds;
	} units[] = { { 'y', 365 * DAY_S }, { 'w', 7 * DAY_S }, { 'd', DAY_S }, { 'h', 3600 }, { 'm', 60 }, { 's', 1 } };
	size_t i = 0;

	while (units[i].letter != letter)
		i++;
	return units[i].seconds;
}

int duration_parse_units(const char *text, size_t len, const char *units, int64_t max_s, int64_t *ret_s)
{
	int64_t n = 0, unit;

	if (len < 2 || !text[len - 1] || !strchr(units, text[len - 1]))
		return -EINVAL;
	for (size_t i = 0; i + 1 < len; i++) {
		if (!isdigit((unsigned char)text[i]) || n > max_s)
			return -EINVAL;
		n = 10 * n + (text[i] - '0');
	}
	unit = unit_seconds(text[len - 1]);
	if (n > max_s / unit)
		return -EINVAL;
	*ret_s = n * unit;
	return 0;
}

/* Print a duration in the largest unit that divides it. */
void duration_print_units(int64_t s, const char *units, char buf[DURATION_TEXT])
{
	while (units[1] && (!s || s % unit_seconds(*units)))
		units++;
	snprintf(buf, DURATION_TEXT, "%" PRId64 "%c", s / unit_seconds(*units), *units);
}

int duration_parse(const char *text, uint32_t *ret_s)
{
	int64_t s;
	int r = duration_parse_units(text, strlen(text), UNITS, DURATION_MAX_S, &s);

	if (!r)
		*ret_s = (uint32_t)s;
	return r;
}

void duration_print(uint32_t s, char buf[DURATION_TEXT])
{
	duration_print_units(s, UNITS, buf);
}

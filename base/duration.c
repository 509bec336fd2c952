#include "base/duration.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

/* Largest first: a duration is printed in the largest unit that divides it. */
static const struct {
	char letter;
	uint32_t seconds;
} units[] = { { 'd', 24 * 3600 }, { 'h', 3600 }, { 'm', 60 }, { 's', 1 } };

static int unit_of(char letter, uint32_t *ret_s)
{
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (units[i].letter == letter) {
			*ret_s = units[i].seconds;
			return 0;
		}
	return -EINVAL;
}

int duration_parse(const char *text, uint32_t *ret_s)
{
	uint64_t n = 0;
	uint32_t unit;
	const char *c;

	for (c = text; isdigit((unsigned char)*c); c++) {
		n = 10 * n + (uint64_t)(*c - '0');
		if (n > DURATION_MAX_S)
			return -EINVAL;
	}
	if (c == text || !*c || c[1] || unit_of(*c, &unit) < 0 || n > DURATION_MAX_S / unit)
		return -EINVAL;
	*ret_s = (uint32_t)n * unit;
	return 0;
}

void duration_print(uint32_t s, char buf[DURATION_TEXT])
{
	size_t i = 0;

	while (!s ? i + 1 < ARRAY_SIZE(units) : s % units[i].seconds)
		i++;
	snprintf(buf, DURATION_TEXT, "%" PRIu32 "%c", s / units[i].seconds, units[i].letter);
}

/* duration: lengths of time as users write them: a number with its unit, such as "90s" or "2h". */
#ifndef CAIRN_BASE_DURATION_H
#define CAIRN_BASE_DURATION_H

#include <stddef.h>
#include <stdint.h>

#define DURATION_MAX_S (366U * 24 * 3600)
#define DURATION_TEXT 16

/* Parse a duration with its unit: "45s", "30m", "2h", "1d". Returns 0; -EINVAL: malformed, or longer than
 * DURATION_MAX_S. */
int duration_parse(const char *text, uint32_t *ret_s);
void duration_print(uint32_t s, char buf[DURATION_TEXT]);

/* Like duration_parse() and duration_print(), with other units and another maximum.
 * units: letters of "ywdhms", largest first. text: len bytes. */
int duration_parse_units(const char *text, size_t len, const char *units, int64_t max_s, int64_t *ret_s);
void duration_print_units(int64_t s, const char *units, char buf[DURATION_TEXT]);

#endif

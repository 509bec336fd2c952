/* duration: lengths of time as users write them: a number with its unit, such as "90s" or "2h". */
#ifndef CAIRN_BASE_DURATION_H
#define CAIRN_BASE_DURATION_H

#include <stdint.h>

#define DURATION_MAX_S (366U * 24 * 3600)
#define DURATION_TEXT 16

/* Parse a duration with its unit: "45s", "30m", "2h", "1d". Returns 0; -EINVAL: malformed, or longer than
 * DURATION_MAX_S. */
int duration_parse(const char *text, uint32_t *ret_s);
void duration_print(uint32_t s, char buf[DURATION_TEXT]);

#endif

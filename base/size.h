/* size: a number of bytes as people write it. */
#ifndef CAIRN_BASE_SIZE_H
#define CAIRN_BASE_SIZE_H

#include <stdint.h>

/* What a unit counts, upper or lower case, as virsh has it: "K" and "KiB" 1024 bytes, "KB" 1000, up to E; "b", "byte"
 * and "bytes" 1. Returns 0: it is no unit. */
uint64_t size_unit(const char *unit);

/* "512", "24G", "1.5GiB", "512MB". plain: what a number without a unit counts; 0: it has to have one. A part of a byte
 * is none. Returns 0; -EINVAL; -ERANGE: more than fits, and *ret_bytes is UINT64_MAX for those who have a bound of their
 * own. */
int size_parse(const char *s, uint64_t plain, uint64_t *ret_bytes);

#endif

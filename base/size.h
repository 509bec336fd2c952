/* size: parses a number of bytes as people write it. */
#ifndef CAIRN_BASE_SIZE_H
#define CAIRN_BASE_SIZE_H

#include <stdint.h>

/* Returns the number of bytes of a unit, case-insensitive as in virsh: "K" and "KiB" 1024, "KB"
 * 1000, up to E; "b", "byte" and "bytes" 1. Returns 0 if `unit` is not a unit. */
uint64_t size_unit(const char *unit);

/* Parse "512", "24G", "1.5GiB" or "512MB". A fraction other than 0 needs a unit above one byte.
 * plain: unit in bytes of a number without a unit; 0: the unit is mandatory.
 * Returns 0; -EINVAL; -ERANGE on overflow (*ret_bytes is then UINT64_MAX, for callers with a limit
 * of their own). */
int size_parse(const char *s, uint64_t plain, uint64_t *ret_bytes);

#endif

/* scaled: a number of bytes as people write it. */
#ifndef CAIRN_TOOLS_SCALED_H
#define CAIRN_TOOLS_SCALED_H

#include <stdint.h>

/* plain: what a number without a unit counts, in bytes: 1 or KIB. As virsh has it, "K" and "KiB" are 1024, "KB" is
 * 1000, "b" and "bytes" are 1. What does not fit is UINT64_MAX. Returns 0 or -EINVAL. */
int scaled_parse(const char *s, uint64_t plain, uint64_t *ret_bytes);

#endif

/* hash: FNV-1a of 64 bits, for names of files and buckets. An attacker who chooses the data can make two hashes
 * equal. */
#ifndef CAIRN_BASE_HASH_H
#define CAIRN_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define HASH_BEGIN 0xcbf29ce484222325ULL

/* Continue a hash. hash: HASH_BEGIN, or the result of an earlier call. */
static inline uint64_t hash_add(uint64_t hash, const void *data, size_t len)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ p[i]) * 0x100000001b3ULL;
	return hash;
}

#endif

#include "base/crc32c.h"
#include "base/bytes.h"

#include <pthread.h>
#ifdef __x86_64__
#include <sys/platform/x86.h>
#endif

#define CRC32C_POLY_REFLECTED 0x82f63b78u

static uint32_t table[256];

static void table_init(void)
{
	for (unsigned i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = (c >> 1) ^ (c & 1 ? CRC32C_POLY_REFLECTED : 0);
		table[i] = c;
	}
}

static uint32_t crc32c_table(uint32_t crc, const uint8_t *p, size_t len)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, table_init);
	while (len--)
		crc = (crc >> 8) ^ table[(crc ^ *p++) & 0xff];
	return crc;
}

#ifdef __x86_64__
/* The crc32 instruction has a latency of three cycles and a throughput of one per cycle, so three
 * stretches run interleaved. Four rounds of three stretches cover nearly 64 KiB. */
#define STRETCH_BYTES 5440u

/* shift_table[i][b]: the value of a register after STRETCH_BYTES zeros, if its byte i was b and its other bytes were 0.
 * For any register, XOR the values of its four bytes. */
static uint32_t shift_table[4][256];

__attribute__((target("sse4.2"))) static void shift_init(void)
{
	for (unsigned bit = 0; bit < 32; bit++) {
		uint64_t c = 1ULL << bit;

		for (unsigned i = 0; i < STRETCH_BYTES; i += 8)
			c = __builtin_ia32_crc32di(c, 0);
		for (unsigned v = 0; v < 256; v++)
			if (v >> (bit & 7) & 1)
				shift_table[bit / 8][v] ^= (uint32_t)c;
	}
}

static uint64_t crc_shift(uint64_t c)
{
	return shift_table[0][c & 0xff] ^ shift_table[1][c >> 8 & 0xff] ^ shift_table[2][c >> 16 & 0xff] ^
		shift_table[3][c >> 24 & 0xff];
}

__attribute__((target("sse4.2"))) static uint64_t crc32c_three(uint64_t c, const uint8_t *p)
{
	uint64_t second = 0, third = 0;

	for (unsigned i = 0; i < STRETCH_BYTES; i += 8, p += 8) {
		c = __builtin_ia32_crc32di(c, load_le64(p));
		second = __builtin_ia32_crc32di(second, load_le64(p + STRETCH_BYTES));
		third = __builtin_ia32_crc32di(third, load_le64(p + 2ULL * STRETCH_BYTES));
	}
	return crc_shift(crc_shift(c) ^ second) ^ third;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse(uint32_t crc, const uint8_t *p,
	size_t len)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	uint64_t c = crc;

	if (len >= 3ULL * STRETCH_BYTES)
		pthread_once(&once, shift_init);
	for (; len >= 3ULL * STRETCH_BYTES; len -= 3ULL * STRETCH_BYTES, p += 3ULL * STRETCH_BYTES)
		c = crc32c_three(c, p);
	for (; len >= 8; len -= 8, p += 8)
		c = __builtin_ia32_crc32di(c, load_le64(p));
	while (len--)
		c = __builtin_ia32_crc32qi((uint32_t)c, *p++);
	return (uint32_t)c;
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
	crc = ~crc;
#ifdef __x86_64__
	/* Not __builtin_cpu_supports(): it executes some 10 CPUIDs before main(), and each traps on a host that is a
	 * virtual machine itself. The C library has the answer already. */
	if (CPU_FEATURE_ACTIVE(SSE4_2))
		return ~crc32c_sse(crc, data, len);
#endif
	return ~crc32c_table(crc, data, len);
}

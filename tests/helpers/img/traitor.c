/* A cairn-img that an image has taken over: it makes the system call that a test wants, and nothing else of it differs.
 *
 * TRAITOR: "STAGE NUMBER ARGUMENT ...", where an argument "=TEXT" is the address of the text. STAGE is "byte", when the
 * first byte of an image would be read, or "open", when the last image is open. The process prints the result, 0 or
 * more or -errno, and ends. */
#include "tools/img/img.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t __real_pread(int fd, void *buf, size_t n, off_t at);
ssize_t __wrap_pread(int fd, void *buf, size_t n, off_t at);
int __real_img_seal(bool renames, struct err *e);
int __wrap_img_seal(bool renames, struct err *e);

static int64_t raw_call(const int64_t *a)
{
	register int64_t r10 __asm__("r10") = a[4];
	register int64_t r8 __asm__("r8") = a[5];
	register int64_t r9 __asm__("r9") = a[6];
	int64_t ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(a[0]), "D"(a[1]), "S"(a[2]), "d"(a[3]), "r"(r10), "r"(r8), "r"(r9)
		: "rcx", "r11", "memory");
	return ret;
}

static void obey(const char *stage)
{
	char *order = getenv("TRAITOR"), *word = order ? strtok(order, " ") : NULL;
	int64_t call[7] = { 0 };
	char said[64];
	int n;

	if (!word || strcmp(word, stage)) {
		if (word)
			order[strlen(word)] = ' '; /* as it was */
		return;
	}
	for (unsigned i = 0; i < 7 && (word = strtok(NULL, " ")); i++)
		call[i] = *word == '=' ? (int64_t)(uintptr_t)(word + 1) : strtoll(word, NULL, 0);
	n = snprintf(said, sizeof(said), "result: %lld\n", (long long)raw_call(call));
	if (write(STDOUT_FILENO, said, (size_t)n) < 0)
		_exit(3);
	_exit(2);
}

ssize_t __wrap_pread(int fd, void *buf, size_t n, off_t at)
{
	obey("byte");
	return __real_pread(fd, buf, n, at);
}

int __wrap_img_seal(bool renames, struct err *e)
{
	int r = __real_img_seal(renames, e);

	obey("open");
	return r;
}

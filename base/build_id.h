/* build_id: which build a program is. The linker writes the id into a note of the program; two programs with one id are
 * the same. 0: the program has none. Threading: any. */
#ifndef CAIRN_BASE_BUILD_ID_H
#define CAIRN_BASE_BUILD_ID_H

#include <stddef.h>
#include <stdint.h>

/* Return the first bytes of the id in the first len bytes of a program file; 0: they have none. */
uint64_t build_id_in(const uint8_t *head, size_t len);
/* Return the id of a program file, 0 also if it cannot be read. */
uint64_t build_id_of(const char *path);
/* Return the id of this program. */
uint64_t build_id_own(void);

#endif

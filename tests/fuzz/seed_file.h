/* seed_file: what the tools that write a fuzzer's seeds have in common. */
#ifndef CAIRN_TESTS_SEED_FILE_H
#define CAIRN_TESTS_SEED_FILE_H

#include <stddef.h>

/* Write a seed to FOLDER/seed-NAME. Returns 0; 1 after a message on stderr. */
int seed_file_write(const char *folder, const char *name, const void *seed, size_t len);
/* Write n seeds, whose names are their numbers.
 * make: puts seed i into a buffer of size bytes, and returns its length.
 * Returns 0; 1 after a message on stderr. */
int seed_files_write(const char *folder, size_t n, size_t size, size_t (*make)(size_t i, unsigned char *seed));

#endif

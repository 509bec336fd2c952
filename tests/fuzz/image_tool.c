/* image_tool: work with seeds and inputs of fuzz_qcow2 by hand.
 *   image_tool seeds FOLDER        write all seeds
 *   image_tool run FILE...         run inputs without the fuzzer
 *   image_tool text FILE           print a failing input as a row for image_finds.c, reduced to the
 *   changes to its most similar seed that matter
 *   image_tool image FILE          write an input's image to standard output
 *   image_tool random N COUNT FILE run COUNT mutants of all seeds, starting with number N; FILE
 *   keeps the last one */
#include "tests/fuzz/fuzz_image.h"
#include "tests/fuzz/seed_file.h"

#include "base/util.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static uint8_t input[IMAGE_INPUT_MAX], seed[IMAGE_INPUT_MAX];

static size_t load(const char *path)
{
	FILE *f = fopen(path, "r");
	size_t n;

	if (!f) {
		perror(path);
		exit(1);
	}
	n = fread(input, 1, sizeof(input), f);
	fclose(f);
	return n;
}

static int seeds_write(const char *folder)
{
	int r = 0;

	for (size_t i = 0; i < image_seeds() && !r; i++) {
		size_t n = image_seed(i, seed, sizeof(seed));

		r = seed_file_write(folder, image_seed_name(i), seed, n);
	}
	return r;
}

static uint64_t word(const uint8_t *p)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

/* Count the words that differ from the input; missing bytes count as zeros. */
static size_t distance(size_t n)
{
	size_t d = 0;

	for (size_t i = 0; i + 8 <= n; i += 8)
		d += word(input + i) != word(seed + i);
	return d;
}

static bool fails(size_t len)
{
	int st;
	pid_t pid = fork();

	if (!pid) {
		alarm(10);
		close(2);
		image_run(input, len);
		_exit(0);
	}
	return pid < 0 || waitpid(pid, &st, 0) < 0 || st != 0;
}

/* Restore by halves the seed's words that make no difference to the failure. */
static void put_back(size_t first, size_t words, size_t len)
{
	uint8_t *kept, *from = input + first * 8, *to = seed + first * 8;

	if (!memcmp(from, to, words * 8))
		return;
	kept = malloc(words * 8);
	memcpy(kept, from, words * 8);
	memcpy(from, to, words * 8);
	if (!fails(len)) {
		memcpy(from, kept, words * 8);
		if (words > 1) {
			put_back(first, words / 2, len);
			put_back(first + words / 2, words - words / 2, len);
		}
	}
	free(kept);
}

static int text(const char *path)
{
	size_t len = load(path), best = 0, least = SIZE_MAX, n;
	unsigned pokes = 0;

	for (size_t i = 0; i < image_seeds(); i++) {
		memset(seed, 0, sizeof(seed));
		n = MAX(image_seed(i, seed, sizeof(seed)), len);
		if (distance(n) < least) {
			least = distance(n);
			best = i;
		}
	}
	memset(seed, 0, sizeof(seed));
	n = image_seed(best, seed, sizeof(seed));
	if (fails(MAX(len, n)))
		len = MAX(len, n);
	if (!fails(len)) {
		fprintf(stderr, "image_tool: %s does not fail\n", path);
		return 1;
	}
	put_back(0, MIN(len, n) / 8, len);
	printf("\t{ .what = \"\", .seed = \"%s\", POKES(", image_seed_name(best));
	for (size_t i = 0; i + 8 <= len; i += 8)
		if (word(input + i) != word(seed + i))
			printf("%s{ %zu, 8, 0x%llx }", pokes++ ? ", " : "", i,
				(unsigned long long)word(input + i));
	if (len < n)
		printf("%s{ ~0u, 1, %zu }", pokes++ ? ", " : "", len);
	printf(") },\n");
	return 0;
}

/* Run mutants without coverage feedback, but many times faster than the fuzzer. Each mutant is
 * mutated a few times. */
static int random_run(uint64_t first, uint64_t count, const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	size_t len = 0;

	for (uint64_t i = first; i < first + count; i++) {
		if (i == first || i % 8 == 0)
			len = image_seed(i / 8 % image_seeds(), input, sizeof(input));
		len = image_mutate(input, len, sizeof(input), i + 1);
		if (fd < 0 || ftruncate(fd, 0) < 0 || pwrite(fd, input, len, 0) != (ssize_t)len) {
			perror(path);
			return 1;
		}
		alarm(20);
		image_run(input, len);
	}
	close(fd);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "seeds"))
		return seeds_write(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "text"))
		return text(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "image")) {
		size_t n = load(argv[2]);

		return n < IMAGE_PROGRAM_BYTES ||
		       fwrite(input + IMAGE_PROGRAM_BYTES, 1, n - IMAGE_PROGRAM_BYTES, stdout) == 0;
	}
	if (argc == 5 && !strcmp(argv[1], "random"))
		return random_run(strtoull(argv[2], NULL, 0), strtoull(argv[3], NULL, 0), argv[4]);
	if (argc < 3 || strcmp(argv[1], "run") != 0) {
		fprintf(stderr, "usage: image_tool seeds FOLDER | run FILE... | text FILE | image FILE |\n"
				"       random N COUNT FILE\n");
		return 2;
	}
	for (int i = 2; i < argc; i++)
		image_run(input, load(argv[i]));
	return 0;
}

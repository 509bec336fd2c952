/* seed: the files of a seed image of cloud-init, by the options of the verb (seed.c). */
#ifndef CAIRN_TOOLS_VERBS_SEED_H
#define CAIRN_TOOLS_VERBS_SEED_H

struct cli;
struct err;
struct json_object;

/* Returns 0; CLI_USAGE after an error message. */
int seed_options_check(struct cli *c);
/* Put the texts into `files`. hostname: without --hostname; NULL: none. Returns 0 or -errno with a sentence. */
int seed_files_make(struct cli *c, const char *hostname, struct json_object *files, struct err *e);

#endif

/* verb_words: the help texts of a verb and its options, in part from the daemon's schema. */
#ifndef CAIRN_TOOLS_VERB_WORDS_H
#define CAIRN_TOOLS_VERB_WORDS_H

#include "tools/cairn/cli.h"

/* The option that each verb has that prints. */
#define FORMAT_OPTION (struct verb_option){ "format", "table|json|yaml|csv", "set the output format [table]" }

/* The series of a VM's trend. */
#define TREND_SERIES "cpu, memory, used, balloon, rd-bytes, wr-bytes, rd-reqs, wr-reqs, rd-latency, wr-latency, " \
	"io-errors, rx-bytes, tx-bytes, rx-packets, tx-packets"

/* Find an argument of any of the verb's commands. Borrowed; NULL: none has it. */
struct json_object *verb_argument(struct json_object *schema, const struct verb *v, const char *name);
/* Returns the verb's summary. Borrowed from the schema. */
const char *verb_summary(struct json_object *schema, const struct verb *v);
/* Returns an option's description. Borrowed from the schema. */
const char *verb_option_doc(struct json_object *schema, const struct verb *v, const struct verb_option *o);
/* Returns an array of the words that an option accepts, which the caller owns; NULL: any value, or none. */
struct json_object *verb_option_words(struct json_object *schema, const struct verb *v, const struct verb_option *o);

#endif

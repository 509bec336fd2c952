/* option_words: options that several verbs have, for the tables of options. */
#ifndef CAIRN_TOOLS_VERBS_OPTION_WORDS_H
#define CAIRN_TOOLS_VERBS_OPTION_WORDS_H

#include "tools/cairn/cli.h"

#define END { NULL, NULL, NULL }
/* Options that virsh users type by habit. */
#define BYPASS_CACHE { "bypass-cache", NULL, "no effect; accepted for virsh" }
#define ATOMIC { "atomic", NULL, "no effect: every snapshot is atomic" }
#define DRY_RUN { "dry-run", NULL, FROM_SCHEMA("dry-run") }
#define PUBLISH \
	{ "publish", "[PROTOCOL:][ADDRESS:]PORT:TO", "forward PORT of this host (auto: a free one) to port TO of the guest; repeatable" }

#endif

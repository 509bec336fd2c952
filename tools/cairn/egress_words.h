/* egress_words: egress rules as words, such as "allow tcp 443 *.example.org", and as JSON. */
#ifndef CAIRN_TOOLS_EGRESS_WORDS_H
#define CAIRN_TOOLS_EGRESS_WORDS_H

#include <stdbool.h>

struct json_object;

#define EGRESS_WORDS "must be like \"allow tcp 443 *.example.org\", \"deny 10.0.0.0/8\" or deny"

/* Add a rule to `egress`, which has the array "rules"; one word is the default. The daemon checks the values.
 * Returns false if the text is none. */
bool egress_rule_add(struct json_object *egress, const char *text);
/* Print the rules, one a line, the default last. */
void egress_rules_show(struct json_object *egress);

#endif

/* difference: print the differences between two JSON values for people, one line each. */
#ifndef CAIRN_TOOLS_DIFFERENCE_H
#define CAIRN_TOOLS_DIFFERENCE_H

#include <stdio.h>

struct json_object;

/* Print lines such as 'memory: "128M" -> "256M"' and "disks[vdb]: removed {...}". Array elements with an id are
 * compared with the element of the same id. */
void difference_print(FILE *f, struct json_object *was, struct json_object *now);

#endif

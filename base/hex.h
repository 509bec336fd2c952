/* hex: bytes as hexadecimal digits. */
#ifndef CAIRN_BASE_HEX_H
#define CAIRN_BASE_HEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Returns the value of a digit, of either case; -1: no digit. */
int hex_value(char c);
/* Print n bytes as 2 * n lower-case digits and a NUL. text: room for 2 * n + 1 characters. */
void hex_print(const uint8_t *bytes, size_t n, char *text);
/* Parse exactly 2 * n digits; characters after them are not read. bytes: set on success only. Returns false if a
 * character is no digit, or the text is shorter. */
bool hex_parse(const char *text, uint8_t *bytes, size_t n);

#endif

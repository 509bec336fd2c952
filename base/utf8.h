/* utf8: makes strings from untrusted sources safe to store, send and print. */
#ifndef CAIRN_BASE_UTF8_H
#define CAIRN_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decode the code point at s, where s[0] >= 0x80. left: bytes available, at least 1. Sets *len to the bytes
 * used. A malformed sequence gives U+FFFD and a length of 1. */
uint32_t utf8_next(const unsigned char *s, size_t left, size_t *len);

/* Whether a code point is a control character: below U+0020, from U+007F to U+009F, one that sets the direction of
 * text, or a separator of lines or paragraphs (U+2028, U+2029). A terminal obeys all of them. */
bool utf8_is_control(uint32_t c);
/* Return whether s is valid and has no control character. */
bool utf8_is_clean(const char *s);
/* Whether s is clean, has no other invisible characters and no spaces but U+0020 between others. So two names that look
 * alike differ in visible characters. */
bool utf8_is_plain_name(const char *s);
/* Replace each invalid byte and each control character by '?', in place. Texts from a VM's process are
 * untrusted, and they end up in files and on terminals. */
void utf8_clean(char *s);

/* State of a stream whose pieces may end within a character. Initialize it to {}. */
struct utf8_stream {
	uint8_t left;	     /* bytes that the last character lacks */
	uint8_t least, most; /* the range of the next one of these */
	uint32_t code;	     /* the code point, from the bytes so far */
};
/* Clean the next n bytes, except control characters in `keep` (of those below U+0080). A character that is not complete
 * at the end of a piece stays as it is: a terminal that expects UTF-8 takes no part of it for a control character. */
void utf8_stream_clean(struct utf8_stream *s, char *data, size_t n, const char *keep);

#endif

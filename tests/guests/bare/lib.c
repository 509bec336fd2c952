/* Replacements of C library functions, and the serial port. */
#include "bare.h"

#include <stdarg.h>

#define COM1 0x3f8
#define LSR_DATA 0x01
#define LSR_EMPTY 0x20
#define FIFO_BYTES 16

uint64_t mmio_read(uint64_t gpa, unsigned size)
{
	uint64_t v = 0;

	switch (size) {
	case 1:
		__asm__ volatile("movb (%1), %b0" : "+q"(v) : "r"(gpa) : "memory");
		break;
	case 2:
		__asm__ volatile("movw (%1), %w0" : "+r"(v) : "r"(gpa) : "memory");
		break;
	case 4:
		__asm__ volatile("movl (%1), %k0" : "+r"(v) : "r"(gpa) : "memory");
		break;
	default:
		__asm__ volatile("movq (%1), %0" : "+r"(v) : "r"(gpa) : "memory");
	}
	return v;
}

void mmio_write(uint64_t gpa, unsigned size, uint64_t v)
{
	switch (size) {
	case 1:
		__asm__ volatile("movb %b0, (%1)" : : "q"(v), "r"(gpa) : "memory");
		break;
	case 2:
		__asm__ volatile("movw %w0, (%1)" : : "r"(v), "r"(gpa) : "memory");
		break;
	case 4:
		__asm__ volatile("movl %k0, (%1)" : : "r"(v), "r"(gpa) : "memory");
		break;
	default:
		__asm__ volatile("movq %0, (%1)" : : "r"(v), "r"(gpa) : "memory");
	}
}

void *memset(void *p, int c, size_t n)
{
	void *d = p;

	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return p;
}

void *memcpy(void *to, const void *s, size_t n)
{
	void *d = to;

	__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	for (size_t i = 0; i < n; i++)
		if (x[i] != y[i])
			return x[i] - y[i];
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

bool str_equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

bool number_parse(const char *s, uint64_t *ret)
{
	unsigned base = 10;
	uint64_t v = 0;

	if (s[0] == '0' && s[1] == 'x') {
		base = 16;
		s += 2;
	}
	if (!*s)
		return false;
	for (; *s; s++) {
		if (digit(*s) >= (int)base)
			return false;
		v = v * base + digit(*s);
	}
	*ret = v;
	return true;
}

uint64_t random_next(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

/* At CPL 0: from CPL 3 each port access may trap. */
static uint64_t serial_setup(uint64_t unused)
{
	(void)unused;
	outb(COM1 + 1, 0x00);
	outb(COM1 + 3, 0x80); /* divisor 1: 115200 */
	outb(COM1 + 0, 0x01);
	outb(COM1 + 1, 0x00);
	outb(COM1 + 3, 0x03);
	outb(COM1 + 2, 0x07); /* FIFOs on and empty */
	outb(COM1 + 4, 0x0b); /* OUT2 enables the interrupt line */
	outb(COM1 + 1, 0x01); /* interrupt on received data */
	return 0;
}

void serial_init(void)
{
	kcall(serial_setup, 0);
	ioapic_route(4, false);
}

bool serial_ready(void)
{
	return inb(COM1 + 5) & LSR_DATA;
}

struct input {
	char *buf;
	size_t room, n;
};

static uint64_t input_read(uint64_t input)
{
	struct input *in = (struct input *)input;

	if (!serial_ready())
		kernel_wait();
	while (in->n < in->room && serial_ready())
		in->buf[in->n++] = (char)inb(COM1);
	return 0;
}

size_t serial_read(char *buf, size_t n)
{
	struct input in = {buf, n, 0};

	kcall(input_read, (uint64_t)&in);
	return in.n;
}

struct line {
	char text[512];
	size_t n;
};

static uint64_t line_write(uint64_t line)
{
	const struct line *l = (const struct line *)line;

	for (size_t i = 0; i < l->n; i++) {
		if (i % FIFO_BYTES == 0)
			while (!(inb(COM1 + 5) & LSR_EMPTY))
				__asm__ volatile("pause");
		outb(COM1, (uint8_t)l->text[i]);
	}
	return 0;
}

/* Write the line at CPL 0 at once: from CPL 3 each port access may trap. */
static void line_flush(const struct line *l)
{
	uint16_t cs;

	__asm__("mov %%cs, %0" : "=r"(cs));
	if (cs & 3)
		kcall(line_write, (uint64_t)l);
	else
		line_write((uint64_t)l);
}

static void line_char(struct line *l, char c)
{
	if (l->n < sizeof(l->text))
		l->text[l->n++] = c;
}

static void line_number(struct line *l, uint64_t v, unsigned base)
{
	char digits[24];
	int n = 0;

	do {
		digits[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	while (n)
		line_char(l, digits[--n]);
}

static void line_signed(struct line *l, int64_t v)
{
	if (v < 0)
		line_char(l, '-');
	line_number(l, v < 0 ? -(uint64_t)v : (uint64_t)v, 10);
}

static void line_string(struct line *l, const char *s)
{
	while (*s)
		line_char(l, *s++);
}

static void line_item(struct line *l, char kind, va_list *ap)
{
	switch (kind) {
	case 's':
		line_string(l, va_arg(*ap, const char *));
		break;
	case 'c':
		line_char(l, (char)va_arg(*ap, int));
		break;
	case 'd':
		line_signed(l, va_arg(*ap, int64_t));
		break;
	case 'u':
		line_number(l, va_arg(*ap, uint64_t), 10);
		break;
	case 'x':
		line_string(l, "0x");
		line_number(l, va_arg(*ap, uint64_t), 16);
	}
}

void print(const char *fmt, ...)
{
	struct line l;
	va_list ap;

	l.n = 0;
	va_start(ap, fmt);
	for (; *fmt; fmt++)
		if (*fmt == '%' && fmt[1])
			line_item(&l, *++fmt, &ap);
		else
			line_char(&l, *fmt);
	va_end(ap);
	line_flush(&l);
}

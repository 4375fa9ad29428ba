/*
 * A serial line whose sent characters come back as received ones: `loop-reader <device>`. What is read from standard input is
 * written to the line, and whoever else has it open reads it, as from a reader at its other end. It is the line's own loop mode
 * (TIOCM_LOOP), so that in the emulated machine nothing outside the guest's time takes part. Ends with its input; exit code 0 or 1.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

/* From the kernel's asm/termios.h, which cannot be included beside termios.h. */
#ifndef TIOCM_LOOP
#define TIOCM_LOOP 0x8000
#endif

static int fail(const char *what, const char *name) {
  fprintf(stderr, "loop-reader: %s %s: %s\n", what, name, strerror(errno));
  return 1;
}

int main(int count, char **arguments) {
  if (count != 2) return fprintf(stderr, "usage: loop-reader <device>\n"), 2;
  const char *name = arguments[1];
  /* Not waiting for a carrier: there is none. */
  int line = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK);
  if (line < 0) return fail("cannot open", name);
  struct termios settings;
  if (tcgetattr(line, &settings) != 0) return fail("cannot read the settings of", name);
  cfmakeraw(&settings);
  settings.c_cflag |= CLOCAL | CREAD;
  cfsetspeed(&settings, B115200);
  int loop = TIOCM_DTR | TIOCM_RTS | TIOCM_LOOP;
  if (tcsetattr(line, TCSANOW, &settings) != 0 || ioctl(line, TIOCMSET, &loop) != 0) return fail("cannot turn round", name);
  if (fcntl(line, F_SETFL, 0) != 0) return fail("cannot wait for", name);
  char text[256];
  ssize_t length;
  while ((length = read(STDIN_FILENO, text, sizeof text)) > 0)
    if (write(line, text, (size_t)length) != length) return fail("cannot write to", name);
  return 0;
}

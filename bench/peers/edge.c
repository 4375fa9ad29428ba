/*
 * A turnstile in bare C: serial in, SQLite, a stand-in for GPIO, MQTT out. What a runtime and its libraries cost is the difference to this.
 *
 * edge <reader> <database> <salt, hex> <output> <broker's port> <topic>
 *
 * MQTT 3.1.1 by hand, QoS 1, answers read and thrown away. WAL, synchronous = FULL.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include "sqlite3.h"

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74,
    0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d,
    0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e,
    0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5,
    0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
#define ROT(x, n) ((x) >> (n) | (x) << (32 - (n)))

/* Of at most 119 bytes. */
static void sha256(const uint8_t *text, size_t length, uint8_t out[32]) {
  uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t block[128] = {0};
  memcpy(block, text, length);
  block[length] = 0x80;
  size_t size = length < 56 ? 64 : 128;
  for (int i = 0; i < 8; i++) block[size - 1 - i] = (uint8_t)((uint64_t)length * 8 >> (8 * i));
  for (size_t at = 0; at < size; at += 64) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
      w[i] = (uint32_t)block[at + 4 * i] << 24 | (uint32_t)block[at + 4 * i + 1] << 16 | (uint32_t)block[at + 4 * i + 2] << 8 | block[at + 4 * i + 3];
    for (int i = 16; i < 64; i++)
      w[i] = w[i - 16] + (ROT(w[i - 15], 7) ^ ROT(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] + (ROT(w[i - 2], 17) ^ ROT(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 64; i++) {
      uint32_t a = v[7] + (ROT(v[4], 6) ^ ROT(v[4], 11) ^ ROT(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + K[i] + w[i];
      uint32_t b = (ROT(v[0], 2) ^ ROT(v[0], 13) ^ ROT(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
      for (int j = 7; j > 0; j--) v[j] = v[j - 1];
      v[4] += a;
      v[0] = a + b;
    }
    for (int i = 0; i < 8; i++) h[i] += v[i];
  }
  for (int i = 0; i < 32; i++) out[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void die(const char *what) {
  perror(what);
  exit(1);
}
static sqlite3 *db;
static void run(const char *sql) {
  char *why = NULL;
  if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK) {
    fprintf(stderr, "%s: %s\n", sql, why);
    exit(1);
  }
}
static sqlite3_stmt *prepare(const char *sql) {
  sqlite3_stmt *statement;
  if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) {
    fprintf(stderr, "%s: %s\n", sql, sqlite3_errmsg(db));
    exit(1);
  }
  return statement;
}
static void step(sqlite3_stmt *statement) {
  if (sqlite3_step(statement) != SQLITE_DONE) {
    fprintf(stderr, "%s\n", sqlite3_errmsg(db));
    exit(1);
  }
  sqlite3_reset(statement);
}

int main(int argc, char **argv) {
  if (argc != 7) return 2;
  const char *topic = argv[6];
  if (sqlite3_open(argv[2], &db) != SQLITE_OK) die("open");
  run("PRAGMA journal_mode = WAL");
  run("PRAGMA synchronous = FULL");
  uint8_t salt[32];
  size_t salted = strlen(argv[3]) / 2;
  for (size_t i = 0; i < salted; i++) sscanf(argv[3] + 2 * i, "%2hhx", &salt[i]);
  int lane = open(argv[4], O_WRONLY);
  if (lane < 0) die(argv[4]);

  int broker = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[5])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (connect(broker, (struct sockaddr *)&address, sizeof address) != 0) die("broker");
  const uint8_t hello[] = {0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, 1, 'c'};
  if (write(broker, hello, sizeof hello) != sizeof hello) die("broker");
  fcntl(broker, F_SETFL, O_NONBLOCK);

  int line = open(argv[1], O_RDONLY | O_NOCTTY);
  if (line < 0) die(argv[1]);
  struct termios raw;
  tcgetattr(line, &raw);
  cfmakeraw(&raw);
  cfsetspeed(&raw, B115200);
  tcsetattr(line, TCSANOW, &raw);

  sqlite3_stmt *find = prepare("SELECT id, status FROM tickets WHERE ref = ?");
  sqlite3_stmt *before = prepare("SELECT at FROM used WHERE ref = ?");
  sqlite3_stmt *begin = prepare("BEGIN IMMEDIATE"), *commit = prepare("COMMIT");
  sqlite3_stmt *keep = prepare("INSERT INTO ledger (entry) VALUES (?)");
  sqlite3_stmt *use = prepare("INSERT INTO used (ref, at) VALUES (?, ?)");
  puts("ready");
  fflush(stdout);
  uint8_t text[119];
  size_t length = 0;
  uint16_t packet = 0;
  for (;;) {
    struct pollfd ready[2] = {{line, POLLIN, 0}, {broker, POLLIN, 0}};
    poll(ready, 2, -1);
    uint8_t answers[256];
    if (ready[1].revents && read(broker, answers, sizeof answers) == 0) die("broker");
    if (!ready[0].revents) continue;
    ssize_t got = read(line, text + length, sizeof text - length);
    if (got <= 0) die("reader");
    length += (size_t)got;
    if (length < 2 || text[length - 1] != '\n') {
      if (length == sizeof text) length = 0;
      continue;
    }
    uint8_t salted_code[151], hash[32];
    memcpy(salted_code, salt, salted);
    memcpy(salted_code + salted, text, length - 2);
    size_t whole = salted + length - 2;
    length = 0;
    if (whole > 119) continue;
    sha256(salted_code, whole, hash);
    sqlite3_bind_blob(find, 1, hash, 16, SQLITE_STATIC);
    sqlite3_bind_blob(before, 1, hash, 16, SQLITE_STATIC);
    char id[65] = "";
    int valid = sqlite3_step(find) == SQLITE_ROW && sqlite3_column_int(find, 1) == 0;
    if (valid) snprintf(id, sizeof id, "%s", (const char *)sqlite3_column_text(find, 0));
    sqlite3_reset(find);
    int used = valid && sqlite3_step(before) == SQLITE_ROW;
    sqlite3_reset(before);
    if (!valid || used) continue;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double at = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
    char ref[33], row[256];
    for (int i = 0; i < 16; i++) snprintf(ref + 2 * i, 3, "%02x", hash[i]);
    int bytes = snprintf(row, sizeof row, "{\"ticket\":\"%s\",\"ref\":\"%s\",\"at\":%.6f,\"kind\":\"grant\"}", id, ref, at);
    step(begin);
    sqlite3_bind_text(keep, 1, row, bytes, SQLITE_STATIC);
    step(keep);
    sqlite3_bind_blob(use, 1, hash, 16, SQLITE_STATIC);
    sqlite3_bind_double(use, 2, at);
    step(use);
    step(commit);
    if (write(lane, "1", 1) != 1) die("lane");
    uint8_t message[512];
    size_t topic_bytes = strlen(topic), rest = 2 + topic_bytes + 2 + (size_t)bytes, end = 0;
    message[end++] = 0x32;
    message[end++] = (uint8_t)(rest % 128 | (rest > 127 ? 128 : 0));
    if (rest > 127) message[end++] = (uint8_t)(rest / 128);
    message[end++] = (uint8_t)(topic_bytes >> 8);
    message[end++] = (uint8_t)topic_bytes;
    memcpy(message + end, topic, topic_bytes);
    end += topic_bytes;
    packet = packet == 65535 ? 1 : packet + 1;
    message[end++] = (uint8_t)(packet >> 8);
    message[end++] = (uint8_t)packet;
    memcpy(message + end, row, (size_t)bytes);
    end += (size_t)bytes;
    if (write(broker, message, end) != (ssize_t)end) die("broker");
  }
}

/* A driver of a GPU that is not there, for tests of kernels/cuda/driver_real.py: memory is the host's, and each call is a
   line in the file that FAKE_CUDA_LOG names. A launch writes the bytes of its arguments, whose sizes are read from the
   machine code, as the real driver does. FAKE_CUDA_BYTES limits what can be allocated; FAKE_CUDA_FAIL=NAME:STATUS lets
   a call fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Status;
typedef uint64_t Address;

static Status told(const char *name, const char *format, ...) {
    const char *path = getenv("FAKE_CUDA_LOG"), *fail = getenv("FAKE_CUDA_FAIL");
    if (path) {
        FILE *log = fopen(path, "a");
        va_list rest;
        fprintf(log, "%s", name);
        va_start(rest, format);
        vfprintf(log, format, rest);
        va_end(rest);
        fprintf(log, "\n");
        fclose(log);
    }
    size_t n = strlen(name);
    return fail && !strncmp(fail, name, n) && fail[n] == ':' ? atoi(fail + n + 1) : 0;
}

Status cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    (void)version, (void)flags;
    *found = dlsym(RTLD_DEFAULT, name);
    Dl_info where, ours;
    if (!*found || !dladdr(*found, &where) || !dladdr((void *)told, &ours) || where.dli_fbase != ours.dli_fbase) {
        void *self = dlopen("libcuda.so.1", RTLD_LAZY);
        *found = dlsym(self, name);
    }
    if (status) *status = *found ? 0 : 1;
    return 0;
}
Status cuGetProcAddress(const char *name, void **found, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, found, version, flags, 0);
}
Status cuDriverGetVersion(int *version) { *version = 13000; return 0; }

Status cuInit(unsigned flags) { return told("cuInit", " %u", flags); }
Status cuDeviceGetCount(int *count) { *count = 1; return told("cuDeviceGetCount", ""); }
Status cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return told("cuDeviceGet", " %d", ordinal); }
Status cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = (void *)0xc0;
    return told("cuDevicePrimaryCtxRetain", " %d", device);
}
Status cuCtxSetCurrent(void *context) { return told("cuCtxSetCurrent", " %p", context); }
Status cuCtxSynchronize(void) { return told("cuCtxSynchronize", ""); }
Status cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, length, "a GPU that is not there");
    return told("cuDeviceGetName", " %d", device);
}
Status cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : attribute == 38 ? 50 << 20 : -1;
    return told("cuDeviceGetAttribute", " %d %d", attribute, device);
}
Status cuGetErrorName(Status status, const char **text) {
    *text = status == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : status == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_OTHER";
    return 0;
}
Status cuGetErrorString(Status status, const char **text) {
    *text = status == 2 ? "out of memory" : "something is wrong";
    return 0;
}

static size_t used;
Status cuMemAlloc(Address *address, size_t nbytes) {
    const char *most = getenv("FAKE_CUDA_BYTES");
    Status status = told("cuMemAlloc", " %zu", nbytes);
    if (most && used + nbytes > strtoull(most, 0, 10)) return 2;
    used += nbytes;
    *address = (Address)malloc(nbytes);
    return status;
}
Status cuMemFree(Address address) { free((void *)address); return told("cuMemFree", ""); }
Status cuMemGetInfo(size_t *left, size_t *total) { *left = 3 << 20; *total = 4 << 20; return told("cuMemGetInfo", ""); }
Status cuMemcpyHtoDAsync(Address to, const void *from, size_t nbytes, void *stream) {
    memcpy((void *)to, from, nbytes);
    return told("cuMemcpyHtoDAsync", " %zu %p", nbytes, stream);
}
Status cuMemcpyDtoHAsync(void *to, Address from, size_t nbytes, void *stream) {
    memcpy(to, (void *)from, nbytes);
    return told("cuMemcpyDtoHAsync", " %zu %p", nbytes, stream);
}
Status cuMemcpyDtoDAsync(Address to, Address from, size_t nbytes, void *stream) {
    memcpy((void *)to, (void *)from, nbytes);
    return told("cuMemcpyDtoDAsync", " %zu %p", nbytes, stream);
}
Status cuMemsetD8Async(Address to, unsigned char byte, size_t nbytes, void *stream) {
    memset((void *)to, byte, nbytes);
    return told("cuMemsetD8Async", " %u %zu %p", byte, nbytes, stream);
}

static uintptr_t streams = 0x500, events = 0xe00;
Status cuStreamCreate(void **stream, unsigned flags) {
    *stream = (void *)streams++;
    return told("cuStreamCreate", " %u -> %p", flags, *stream);
}
Status cuStreamSynchronize(void *stream) { return told("cuStreamSynchronize", " %p", stream); }
Status cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    return told("cuStreamWaitEvent", " %p %p %u", stream, event, flags);
}
Status cuEventCreate(void **event, unsigned flags) {
    *event = (void *)events++;
    return told("cuEventCreate", " %u -> %p", flags, *event);
}
Status cuEventRecord(void *event, void *stream) { return told("cuEventRecord", " %p %p", event, stream); }
Status cuEventDestroy(void *event) { return told("cuEventDestroy", " %p", event); }
Status cuStreamBeginCapture(void *stream, int mode) { return told("cuStreamBeginCapture", " %p %d", stream, mode); }
Status cuStreamEndCapture(void *stream, void **graph) {
    *graph = (void *)0x91;
    return told("cuStreamEndCapture", " %p", stream);
}
Status cuGraphInstantiateWithFlags(void **exec, void *graph, uint64_t flags) {
    *exec = (void *)0x92;
    return told("cuGraphInstantiate", " %p %llu", graph, (unsigned long long)flags);
}
Status cuGraphInstantiate(void **exec, void *graph, uint64_t flags) {
    return cuGraphInstantiateWithFlags(exec, graph, flags);
}
Status cuGraphLaunch(void *exec, void *stream) { return told("cuGraphLaunch", " %p %p", exec, stream); }
Status cuGraphDestroy(void *graph) { return told("cuGraphDestroy", " %p", graph); }
Status cuGraphExecDestroy(void *exec) { return told("cuGraphExecDestroy", " %p", exec); }

/* Machine code is an ELF file; the section .nv.info.NAME says where each argument lies and how long it is. */
typedef struct { uint32_t name, kind; uint64_t flags, address, offset, size, rest[3]; } Section;
typedef struct { int count; unsigned sizes[64]; } Function;

static const Section *section(const char *elf, int i) {
    return (const Section *)(elf + *(const uint64_t *)(elf + 40) + 64 * i);
}
Status cuModuleLoadData(void **module, const void *image) {
    const char *elf = image;
    Status status = told("cuModuleLoadData", "");
    if (memcmp(elf, "\177ELF", 4)) return 200;
    size_t most = *(const uint64_t *)(elf + 40) + 64 * *(const uint16_t *)(elf + 60);
    for (int i = 0; i < *(const uint16_t *)(elf + 60); i++) {
        const Section *s = section(elf, i);
        if (s->kind != 8 && s->offset + s->size > most) most = s->offset + s->size;
    }
    *module = memcpy(malloc(most), elf, most);
    return status;
}
Status cuModuleGetFunction(void **function, void *module, const char *name) {
    const char *elf = module, *names = elf + section(elf, *(const uint16_t *)(elf + 62))->offset;
    for (int i = 0; i < *(const uint16_t *)(elf + 60); i++) {
        const Section *s = section(elf, i);
        if (strncmp(names + s->name, ".nv.info.", 9) || strcmp(names + s->name + 9, name)) continue;
        Function *found = calloc(1, sizeof(Function));
        for (const char *p = elf + s->offset, *end = p + s->size; p < end;) {
            uint16_t size = *(const uint16_t *)(p + 2);
            if (p[0] == 4 && p[1] == 0x17) { /* index, ordinal, offset, flags with the size above bit 18 */
                int ordinal = *(const uint16_t *)(p + 8);
                found->sizes[ordinal] = *(const uint32_t *)(p + 12) >> 18;
                if (ordinal >= found->count) found->count = ordinal + 1;
            }
            p += 4 + (p[0] == 4 ? size : 0);
        }
        *function = found;
        return told("cuModuleGetFunction", "");
    }
    return 500;
}
Status cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void *stream, void **arguments, void **extra) {
    const Function *f = function;
    char text[4096], *end = text;
    *end = 0;
    for (int i = 0; i < f->count; i++) {
        *end++ = ' ';
        for (unsigned k = 0; k < f->sizes[i]; k++) end += sprintf(end, "%02x", ((unsigned char *)arguments[i])[k]);
    }
    return told("cuLaunchKernel", " %u,%u,%u %u,%u,%u %u %p %p%s", gx, gy, gz, bx, by, bz, shared, stream, (void *)extra,
                text);
}

// Joseph's method for PET sinograms and events: one thread per line (and TOF bin), neighbouring lanes side by side.
//
// The back projections add up in 64-bit integers, in units of 1 / scale: integer sums do not depend on their order, so
// that results repeat to the last bit although many threads add to one voxel. The scale is a power of two that leaves
// no room for an overflow.

#ifndef REAL
#define REAL float
#endif
typedef REAL real;
typedef unsigned long long fixed;

// What both kinds of line need: the image's grid, and the timing kernel (n_edges = 0 without TOF).
#define GRID                                                                                                          \
    double ox, double oy, double oz, double vx, double vy, double vz, int nx, int ny, int nz, const real *edges,      \
        const real *kernel, double per_mm, int n_edges

// Narrow the steps [low, high] to those with lower <= start + i slope <= upper.
__device__ static void within(double &low, double &high, double start, double slope, double lower, double upper) {
    if (slope == 0) {
        if (start < lower || start > upper) high = low - 1;
        return;
    }
    double one = (lower - start) / slope, other = (upper - start) / slope;
    low = fmax(low, fmin(one, other));
    high = fmin(high, fmax(one, other));
}

// The cumulated timing kernel, 0 at u = -1 and 1 at u = 1, less a half.
__device__ static real cumulated(real u, const real *c) {
    u = u < -1 ? real(-1) : u > 1 ? real(1) : u;
    real w = u * u, sum = c[8];
    for (int k = 7; k >= 0; --k) sum = sum * w + c[k];
    return u * sum;
}

// The part of the timing kernel around position u that falls between two edges.
__device__ static real time_weight(real u, real lower, real upper, const real *c) {
    return max(cumulated(upper - u, c) - cumulated(lower - u, c), real(0));  // less by rounding only
}

// The whole steps within [low, high], as [first, last): none where a line misses the image, however far.
__device__ static void whole_steps(double low, double high, int &first, int &last) {
    bool any = low <= high;
    first = any ? (int)ceil(low) : 0;
    last = any ? (int)floor(high) + 1 : 0;
}

// One of three numbers. An array that is indexed by a variable would lie in memory: registers have no numbers.
template <typename T> __device__ static T chosen(int which, T first, T second, T third) {
    return which == 0 ? first : which == 1 ? second : third;
}

// The steps [first, last) of a line in space, along its main axis: at step i it is at i of the main axis, c0 + i dc of
// one other and z0 + i dz of the third. Voxels are `main`, `cross` and `third` apart in memory along the three.
struct Line {
    int first, last, m, k_end;
    long long main, cross, third;
    double c0, dc, z0, dz, t0, dt, reach, step;
};

__device__ static Line line_of(double ax, double ay, double az, double bx, double by, double bz, bool may_be_axial,
                               GRID) {
    const double dx = bx - ax, dy = by - ay, dz = bz - az;
    bool along_x = fabs(dx) >= fabs(dy);
    bool parallel = dx == 0 && dy == 0;
    bool axial = parallel || (may_be_axial && fabs(dz) > fabs(dx) && fabs(dz) > fabs(dy));
    const int main = axial ? 2 : along_x ? 0 : 1, one = axial ? 0 : along_x ? 1 : 0, other = axial ? 1 : 2;
    const double run = chosen(main, dx, dy, dz);
    Line l;
    double length = sqrt(dx * dx + dy * dy + dz * dz);
    l.t0 = (chosen(main, ox, oy, oz) - chosen(main, ax, ay, az)) / run;
    l.dt = chosen(main, vx, vy, vz) / run;
    const double across = chosen(one, dx, dy, dz), along = chosen(other, dx, dy, dz);
    const double width = chosen(one, vx, vy, vz), height = chosen(other, vx, vy, vz);
    l.c0 = (chosen(one, ax, ay, az) + l.t0 * across - chosen(one, ox, oy, oz)) / width;
    l.dc = l.dt * across / width;
    l.z0 = (chosen(other, ax, ay, az) + l.t0 * along - chosen(other, ox, oy, oz)) / height;
    l.dz = l.dt * along / height;
    l.m = chosen(one, nx, ny, nz);
    l.k_end = chosen(other, nx, ny, nz);
    l.main = chosen(main, (long long)ny * nz, (long long)nz, 1LL);
    l.cross = chosen(one, (long long)ny * nz, (long long)nz, 1LL);
    l.third = chosen(other, (long long)ny * nz, (long long)nz, 1LL);
    l.step = fabs(l.dt) * length;
    l.reach = length * per_mm;
    double low = 0, high = chosen(main, nx, ny, nz) - 1;
    within(low, high, l.t0, l.dt, 0, 1);
    within(low, high, l.c0, l.dc, -1, l.m);
    within(low, high, l.z0, l.dz, -1, l.k_end);
    whole_steps(low, high, l.first, l.last);
    if (length == 0) l.last = l.first = 0;
    return l;
}

// Keep the steps within reach of a TOF bin.
__device__ static void narrow(Line &l, real lower, real upper) {
    double low = l.first, high = l.last - 1;
    within(low, high, (l.t0 - 0.5) * l.reach, l.dt * l.reach, lower - 1.0, upper + 1.0);
    whole_steps(low, high, l.first, l.last);
}

// The four voxels around step i of a line: offsets in the image, -1 outside, and their weights.
__device__ static void taps_of(const Line &l, int i, long long *at, real *weight) {
    double c = l.c0 + i * l.dc, z = l.z0 + i * l.dz;
    int j = (int)floor(c), k = (int)floor(z);
    real v = (real)(c - j), w = (real)(z - k);
    for (int a = 0; a < 2; ++a)
        for (int b = 0; b < 2; ++b) {
            bool inside = j + a >= 0 && j + a < l.m && k + b >= 0 && k + b < l.k_end;
            at[2 * a + b] = inside ? i * l.main + (j + a) * l.cross + (k + b) * l.third : -1;
            weight[2 * a + b] = (a ? v : 1 - v) * (b ? w : 1 - w);
        }
}

__device__ static real position_of(const Line &l, int i) { return (real)((l.t0 + i * l.dt - 0.5) * l.reach); }

__device__ static real integral(const Line &l, const real *image, bool timed, real lower, real upper, const real *kernel) {
    real sum = 0, weight[4];
    long long at[4];
    for (int i = l.first; i < l.last; ++i) {
        taps_of(l, i, at, weight);
        real here = 0;
        for (int q = 0; q < 4; ++q)
            if (at[q] >= 0) here += weight[q] * image[at[q]];
        sum += timed ? here * time_weight(position_of(l, i), lower, upper, kernel) : here;
    }
    return sum * (real)l.step;
}

__device__ static void add(fixed *image, long long at, double value) {
    atomicAdd(image + at, (fixed)(long long)llrint(value));
}

__device__ static void scatter(const Line &l, fixed *image, double value, int i) {
    real weight[4];
    long long at[4];
    taps_of(l, i, at, weight);
    for (int q = 0; q < 4; ++q)
        if (at[q] >= 0) add(image, at[q], value * weight[q]);
}

// ---- sinograms: threads count planes, then TOF bins, then transaxial lines; blockIdx.z takes items --------------

#define LINES const double *ends, const double *heights, int n_lines, int n_planes, int items

#define SINOGRAM_THREAD                                                                                               \
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x, rest = thread / n_planes;                    \
    int plane = (int)(thread % n_planes), n_bins = n_edges ? n_edges - 1 : 1

extern "C" __global__ void sinogram_forward(const real *image, real *out, LINES, GRID) {
    SINOGRAM_THREAD;
    if (rest >= (long long)n_lines * n_bins) return;
    int line = (int)(rest / n_bins), bin = (int)(rest % n_bins);
    const double *e = ends + 4 * (long long)line, *h = heights + 2 * (long long)plane;
    Line l = line_of(e[0], e[1], h[0], e[2], e[3], h[1], false, ox, oy, oz, vx, vy, vz, nx, ny, nz, edges, kernel, per_mm,
                     n_edges);
    bool timed = n_edges > 0;
    real lower = timed ? edges[bin] : real(0), upper = timed ? edges[bin + 1] : real(0);
    if (timed) narrow(l, lower, upper);
    for (int item = blockIdx.z; item < items; item += gridDim.z) {
        const real *x = image + (long long)item * nx * ny * nz;
        real *y = out + (long long)item * n_lines * n_bins * n_planes;
        y[rest * n_planes + plane] = integral(l, x, timed, lower, upper, kernel);
    }
}

// One thread adds up all TOF bins of its line before it touches the image.
extern "C" __global__ void sinogram_adjoint(const real *data, fixed *image, const double *scale, LINES, GRID) {
    SINOGRAM_THREAD;
    if (rest >= n_lines) return;
    const double *e = ends + 4 * rest, *h = heights + 2 * (long long)plane;
    Line l = line_of(e[0], e[1], h[0], e[2], e[3], h[1], false, ox, oy, oz, vx, vy, vz, nx, ny, nz, edges, kernel, per_mm,
                     n_edges);
    double width = n_edges ? edges[1] - edges[0] : 1;
    for (int item = blockIdx.z; item < items; item += gridDim.z) {
        const real *y = data + ((long long)item * n_lines + rest) * n_bins * n_planes + plane;
        fixed *x = image + (long long)item * nx * ny * nz;
        double unit = l.step * scale[item];
        for (int i = l.first; i < l.last; ++i) {
            real value = n_edges ? real(0) : y[0];
            if (n_edges) {
                real u = position_of(l, i);
                int low = max((int)floor((u - 1 - edges[0]) / width), 0);
                int high = min((int)ceil((u + 1 - edges[0]) / width), n_bins);
                real previous = low < high ? cumulated(edges[low] - u, kernel) : real(0);
                for (int b = low; b < high; ++b) {
                    real here = max(cumulated(edges[b + 1] - u, kernel), previous);
                    value += y[(long long)b * n_planes] * (here - previous);
                    previous = here;
                }
            }
            if (value != 0) scatter(l, x, value * unit, i);
        }
    }
}

// ---- events: one thread each ------------------------------------------------------------------------------------

#define EVENTS const int *events, int columns, const double *crystals, int n_events, int items, int may_be_axial

#define EVENT_THREAD                                                                                                  \
    int e = blockIdx.x * blockDim.x + threadIdx.x;                                                                    \
    if (e >= n_events) return;                                                                                        \
    const int *event = events + (long long)e * columns;                                                               \
    const double *a = crystals + 3 * (long long)event[0], *b = crystals + 3 * (long long)event[1];                    \
    Line l = line_of(a[0], a[1], a[2], b[0], b[1], b[2], may_be_axial, ox, oy, oz, vx, vy, vz, nx, ny, nz, edges, kernel, per_mm,   \
                     n_edges);                                                                                        \
    bool timed = n_edges > 0;                                                                                         \
    real lower = timed ? edges[event[2]] : real(0), upper = timed ? edges[event[2] + 1] : real(0);                    \
    if (timed) narrow(l, lower, upper)

extern "C" __global__ void events_forward(const real *image, real *out, EVENTS, GRID) {
    EVENT_THREAD;
    for (int item = 0; item < items; ++item)
        out[(long long)item * n_events + e] =
            integral(l, image + (long long)item * nx * ny * nz, timed, lower, upper, kernel);
}

extern "C" __global__ void events_adjoint(const real *data, fixed *image, const double *scale, EVENTS, GRID) {
    EVENT_THREAD;
    for (int item = 0; item < items; ++item) {
        real value = data[(long long)item * n_events + e];
        if (value == 0) continue;
        fixed *x = image + (long long)item * nx * ny * nz;
        double unit = value * l.step * scale[item];
        for (int i = l.first; i < l.last; ++i) {
            real w = timed ? time_weight(position_of(l, i), lower, upper, kernel) : real(1);
            scatter(l, x, unit * w, i);
        }
    }
}

// The sums in units of the images.
extern "C" __global__ void from_fixed(const fixed *sums, const double *scale, real *image, long long per_item,
                                      int items) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= per_item * items) return;
    image[at] = (real)((long long)sums[at] / scale[at / per_item]);
}

